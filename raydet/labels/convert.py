"""Labels <-> Arrow, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raydet.labels.schema import PSEUDO_BOXES, PSEUDO_LOGITS
from raydet.records import PseudoBoxes, PseudoLabel, PseudoLogits, TeacherRef


def to_table(labels: Sequence[PseudoLabel]) -> pa.Table:
    """Return one row per label, in order, in the schema of their kind; of no labels, in `PSEUDO_BOXES`."""
    keys = [
        pa.array([label.image_id for label in labels], pa.string()),
        pa.array([label.teacher.version for label in labels], pa.int64()),
        pa.array([label.teacher.digest for label in labels], pa.string()),
    ]
    logits = [label.logits for label in labels if isinstance(label, PseudoLogits)]
    if logits:
        return pa.Table.from_arrays([*keys, _lists(logits, np.dtype(np.float32))], schema=PSEUDO_LOGITS)
    boxes = [label for label in labels if isinstance(label, PseudoBoxes)]
    columns = [
        *keys,
        _lists([label.boxes.reshape(-1) for label in boxes], np.dtype(np.float32)),
        _lists([label.classes for label in boxes], np.dtype(np.int32)),
        _lists([label.scores for label in boxes], np.dtype(np.float32)),
        _lists([label.quality for label in boxes], np.dtype(np.float32)),
        pa.array([label.complete_above for label in boxes], pa.float64()),
    ]
    return pa.Table.from_arrays(columns, schema=PSEUDO_BOXES)


def from_table(table: pa.Table) -> list[Any]:
    """Return a table's labels in row order, on the CPU, with memory of their own; their kind follows the schema."""
    table = table.combine_chunks()
    keys = zip(*(table[name].to_pylist() for name in ("image_id", "version", "digest")), strict=True)
    if "logits" in table.schema.names:
        rows = zip(keys, _split(table, "logits"), strict=True)
        return [PseudoLogits(image_id, TeacherRef(version, digest), row) for (image_id, version, digest), row in rows]
    return _boxes(table, keys)


def _boxes(table: pa.Table, keys: Iterable[tuple[str, int, str]]) -> list[PseudoBoxes]:
    boxes, classes, scores, quality = (_split(table, name) for name in ("boxes", "classes", "scores", "quality"))
    floors = table["complete_above"].to_pylist()
    return [
        PseudoBoxes(
            image_id,
            TeacherRef(version, digest),
            boxes[row].reshape(-1, 4),
            classes[row].to(torch.int64),
            scores[row],
            quality[row],
            floors[row],
        )
        for row, (image_id, version, digest) in enumerate(keys)
    ]


def _lists(parts: Sequence[Tensor], dtype: np.dtype[Any]) -> pa.Array:
    arrays = [part.detach().cpu().numpy().astype(dtype, copy=False) for part in parts]
    offsets = np.zeros(len(arrays) + 1, np.int32)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    values = np.concatenate(arrays) if arrays else np.zeros(0, dtype)
    return pa.ListArray.from_arrays(offsets, pa.array(values))


def _split(table: pa.Table, name: str) -> list[Tensor]:
    """Return one tensor per row of a list column."""
    if table.num_rows == 0:
        return []
    column = table[name].chunk(0)
    offsets = column.offsets.to_numpy()
    values = (
        column.values.to_numpy()
    )  # a read-only view of all rows, even of those before a slice; offsets count from its start
    return [torch.from_numpy(values[a:b].copy()) for a, b in zip(offsets, offsets[1:], strict=False)]
