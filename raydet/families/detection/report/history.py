"""Stored pseudo-labels over the length of a run: a sample of each stretch, compared with the hidden truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from raydet.data.boxes.index import DatasetIndex
from raydet.families.detection.pseudo_quality import LabelPair, PseudoLabelQuality, pseudo_label_quality
from raydet.labels.convert import from_table
from raydet.labels.store import read_all
from raydet.records import PseudoBoxes

Select = Callable[[PseudoBoxes], PseudoBoxes]

WINDOWS = 16  # stretches that a run is divided into
LEAST = 60  # labels of a stretch, or there are fewer stretches: rates of a handful say nothing
SAMPLE = 250  # labels read per stretch: selecting each costs an NMS


@dataclass(frozen=True, slots=True, eq=False)
class JudgedLabel:
    """A stored label and the part of it that the method keeps."""

    stored: PseudoBoxes
    kept: PseudoBoxes


@dataclass(frozen=True, slots=True, eq=False)
class LabelWindow:
    """The labels of neighbouring teacher versions."""

    first: int  # version, in steps
    last: int
    labels: int  # in the store
    sampled: int  # of these, looked at
    quality: PseudoLabelQuality | None  # None without hidden truth

    @property
    def middle(self) -> float:
        """Return the step in the middle of the window."""
        return (self.first + self.last) / 2


@dataclass(frozen=True, slots=True, eq=False)
class LabelHistory:
    """A run's labels from first to last."""

    windows: list[LabelWindow]
    newest: list[JudgedLabel]  # one per image, newest first


def read_history(folder: Path, hidden: DatasetIndex | None, select: Select) -> LabelHistory:
    """Read a label store. Raises LabelStoreError where it is damaged; an empty one gives no windows."""
    tables = list(read_all(folder))  # memory-mapped
    tables = [table for table in tables if table.num_rows]
    if not tables:
        return LabelHistory([], [])
    versions = np.concatenate([table["version"].to_numpy() for table in tables])
    order = np.argsort(versions, kind="stable")
    distinct = np.unique(versions)
    windows, judged = [], []
    number = min(WINDOWS, len(distinct), max(1, len(versions) // LEAST))
    for group in np.array_split(distinct, number):
        rows = order[np.isin(versions[order], group)]
        picked = np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64))
        judged = [JudgedLabel(label, select(label)) for label in _take(tables, rows[picked])]
        windows.append(_window(group, len(rows), judged, hidden))
    return LabelHistory(windows, _one_per_image(judged))


def true_boxes(hidden: DatasetIndex, image_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the true boxes `[N, 4]` and classes `[N]` of an image, without crowd regions. Raises KeyError."""
    truth = hidden.truth_at(hidden.position(image_id))
    return truth.boxes[~truth.crowd], truth.classes[~truth.crowd]


def verified_classes(hidden: DatasetIndex, image_id: str) -> np.ndarray | None:
    """Return the classes of which every object of an image has a box, None: all. Raises KeyError."""
    return hidden.verified_at(hidden.position(image_id))


def pair_of(kept: PseudoBoxes, hidden: DatasetIndex) -> LabelPair:
    """Return pseudo-boxes beside what is known of their image. Raises KeyError where it is none of these."""
    truth = (*true_boxes(hidden, kept.image_id), verified_classes(hidden, kept.image_id))
    return LabelPair(kept.boxes.numpy(), kept.classes.numpy(), *truth)


def _window(
    versions: np.ndarray, labels: int, judged: Sequence[JudgedLabel], hidden: DatasetIndex | None
) -> LabelWindow:
    quality = None
    if hidden is not None:
        pairs = (pair_of(each.kept, hidden) for each in judged)
        quality = pseudo_label_quality(pairs, len(hidden.class_names))
    return LabelWindow(
        first=int(versions[0]),
        last=int(versions[-1]),
        labels=labels,
        sampled=len(judged),
        quality=quality,
    )


def _take(tables: Sequence[pa.Table], rows: np.ndarray) -> list[PseudoBoxes]:
    """Return the labels at `rows`, which count through all tables, in the order of the tables."""
    labels: list[PseudoBoxes] = []
    start = 0
    for table in tables:
        own = rows[(rows >= start) & (rows < start + table.num_rows)] - start
        if len(own):
            labels += from_table(table.take(own))
        start += table.num_rows
    return labels


def _one_per_image(judged: Sequence[JudgedLabel]) -> list[JudgedLabel]:
    newest = sorted(judged, key=lambda each: each.stored.teacher.version, reverse=True)
    return list({each.stored.image_id: each for each in reversed(newest)}.values())[::-1]
