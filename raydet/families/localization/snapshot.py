"""What the networks say of some images at an evaluation, for the report: never read by training.

    RUN/diagnostics/step_00000225.places.arrow

Training images show what the gate does (`SAMPLE` of them, evenly spaced), validation images are for pictures. No true
box is in it: the report looks those up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydet.data.evenly import evenly
from raydet.data.located.index import LocatedIndex
from raydet.families.localization.attention import AttentionBoxes, normalised
from raydet.families.localization.data import PreparedLocated
from raydet.families.localization.evaluate import IMAGES_PER_FORWARD, views_of
from raydet.families.localization.method import LocalizationMethod
from raydet.families.localization.model import LocalizationModel, shares
from raydet.labels.snapshots import path_of, read_table, write_table
from raydet.vision.mode import evaluating

KIND = "places"
SAMPLE, PICTURES = 128, 12
TRAIN, VAL = "train", "val"
_FOUR = pa.list_(pa.float32(), 4)
SCHEMA = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),  # train or val
        pa.field("row", pa.int64(), nullable=False),  # of that set's index
        pa.field("class", pa.int32(), nullable=False),  # the classifier's best one
        pa.field("confidence", pa.float32(), nullable=False),  # in the crop of the box
        pa.field("box", _FOUR, nullable=False),  # as `raydet evaluate` measures it; all boxes: shares of the test view
        pa.field("pseudo", _FOUR),  # that the localizer learns from, where there is one
        pa.field("first", _FOUR),  # region of the image (L_r), of pictures of methods that use Algorithm 1
        pa.field("second", _FOUR),  # region of the masked image (L_m)
        pa.field("attention", pa.list_(pa.float32())),  # square map in [0, 1], row by row
        pa.field("masked_attention", pa.list_(pa.float32())),
    ]
)

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """What was said of n images of one set."""

    rows: NDArray[np.int64]  # [n]
    classes: NDArray[np.int32]  # [n]
    confidence: Floats  # [n]
    boxes: Floats  # [n, 4]
    pseudo: Floats  # [n, 4] NaN where there is none
    first: Floats  # [n, 4] likewise
    second: Floats  # [n, 4] likewise
    attention: list[Floats]  # [h, w] each; empty where there is none
    masked_attention: list[Floats]


def write_snapshot(
    step: int,
    method: LocalizationMethod,
    model: LocalizationModel,
    data: PreparedLocated,
    device: torch.device,
    folder: Path,
) -> None:
    """Look at some training and validation images, and write what is said of them."""
    tables = [_look(TRAIN, method, model, data.labeled, evenly(len(data.labeled), SAMPLE), device)]
    if data.val is not None:
        tables.append(_look(VAL, method, model, data.val, evenly(len(data.val), PICTURES), device))
    write_table(path_of(folder, step, KIND), pa.concat_tables(tables))


def read_snapshot(folder: Path, step: int) -> dict[str, Places]:
    """Return what was said of either set. Raises LabelStoreError that names a damaged file."""
    table = read_table(path_of(folder, step, KIND), SCHEMA)
    return {name: _places(table.filter(pc.equal(table["set"], name))) for name in (TRAIN, VAL)}


def _look(
    name: str,
    method: LocalizationMethod,
    model: LocalizationModel,
    index: LocatedIndex,
    rows: list[int],
    device: torch.device,
) -> pa.Table:
    parts = []
    for start in range(0, len(rows), IMAGES_PER_FORWARD):
        own = rows[start : start + IMAGES_PER_FORWARD]
        seen = views_of(index, own, method.run.data.views)
        pixels, classes = shares(seen.pixels, device), seen.classes.to(device)
        with evaluating(model):
            best = model.classifier(pixels).logits.argmax(dim=1)
            boxes = method.locate(model, pixels, classes)[:, method.own_threshold]
            confidence = method.confidence(model, pixels, boxes)
            pseudo = method.pseudo_boxes_of(model, pixels, classes)
            attention = method.attention(model, pixels, classes) if name == VAL else None
        columns = [[name] * len(own), own, best, confidence, boxes, pseudo, *_pictured(attention, pixels.shape[-1])]
        parts.append(_table(columns, len(own)))
    return pa.concat_tables(parts) if parts else SCHEMA.empty_table()


def _pictured(found: AttentionBoxes | None, side: int) -> list[Tensor | None]:
    if found is None:
        return [None] * 4
    masked = found.masked_attention
    return [
        found.first / side,
        found.second / side,
        normalised(found.attention.float()).flatten(1),
        None if masked is None else normalised(masked.float()).flatten(1),
    ]


def _table(columns: list[object], count: int) -> pa.Table:
    arrays = []
    for field, values in zip(SCHEMA, columns, strict=True):
        plain = values.cpu().tolist() if isinstance(values, Tensor) else values
        arrays.append(pa.array([None] * count if plain is None else plain, field.type))
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _places(table: pa.Table) -> Places:
    def four(name: str) -> Floats:
        rows = [row if row is not None else [np.nan] * 4 for row in table[name].to_pylist()]
        return np.array(rows, dtype=np.float32).reshape(-1, 4)

    def squares(name: str) -> list[Floats]:
        rows = [np.array(row or [], dtype=np.float32) for row in table[name].to_pylist()]
        return [row.reshape(int(len(row) ** 0.5), -1) if len(row) else row for row in rows]

    return Places(
        rows=np.array(table["row"].to_pylist(), dtype=np.int64),
        classes=np.array(table["class"].to_pylist(), dtype=np.int32),
        confidence=np.array(table["confidence"].to_pylist(), dtype=np.float32),
        boxes=four("box"),
        pseudo=four("pseudo"),
        first=four("first"),
        second=four("second"),
        attention=squares("attention"),
        masked_attention=squares("masked_attention"),
    )
