"""How good pseudo-labels are at every point of a grid of thresholds.

The point (t, theta) means exactly this: what a method's `select` keeps of each label with these thresholds, paired with
the truth as `families/detection/pseudo_quality.py` does. One `select` per label and theta serves all t, because:

1. The score threshold comes last (`Thresholds` in `families/detection/method.py`), and what is kept stands best first.
   So what is kept at t is a beginning of what is kept at any lower threshold.
2. Pseudo-boxes take their true boxes in that order, and what a box finds free was left by those before it. So what the
   pairing says of a beginning is the beginning of what it says of the whole.

Hence, at a given theta, a box has one true box of its own, or none, at every t below its score, and is absent at the
others: it is counted at the highest t below its score, and sums over t do the rest. Theta acts before NMS, where a
dropped box frees those that it suppressed; nothing of the kind holds for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raydet.families.detection.pseudo_quality import LabelPair, own_truth_iou
from raydet.records import PseudoBoxes

Select = Callable[[PseudoBoxes], PseudoBoxes]
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TrueLabel:
    """What a teacher said about an image, and what is there (without crowd regions)."""

    label: PseudoBoxes
    boxes: np.ndarray  # [M, 4] float xyxy, pixels of the original image
    classes: np.ndarray  # [M] int, 0-based
    verified: np.ndarray | None = None  # as `LabelPair` has it


@dataclass(frozen=True, slots=True)
class Reading:
    """The pseudo-labels at one point of the grid; a rate is None where it would be 0 / 0."""

    score: float  # the lowest, where classes have their own
    quality: float | None
    boxes: int
    hits: int
    boxes_per_image: float
    precision: float | None
    recall: float | None
    f1: float | None
    mean_iou: float | None
    is_complete: (
        bool  # False: labels were cut off above this score threshold, so that boxes are missing from the counts
    )
    highest_score: float | None = None  # where classes have their own


@dataclass(frozen=True, slots=True, eq=False)
class ThresholdGrid:
    """Counts over images for S score thresholds, T quality thresholds and C classes. Rates are NaN where 0 / 0."""

    scores: tuple[float, ...]  # S, ascending
    qualities: tuple[float | None, ...]  # T, ascending; (None,) for a method without a quality threshold
    images: int
    boxes: Counts  # [S, T, C] pseudo-boxes
    hits: Counts  # [S, T, C] pseudo-boxes that find a true box of their class of their own
    iou_sums: Floats  # [S, T, C] over hits
    truths: Counts  # [C] true boxes
    incomplete: Counts  # [S] labels that were cut off above the score threshold

    @property
    def precision(self) -> Floats:
        """Share `[S, T]` of pseudo-boxes that are hits."""
        return _ratio(self.hits.sum(axis=2), self.boxes.sum(axis=2))

    @property
    def recall(self) -> Floats:
        """Share `[S, T]` of true boxes that are hit."""
        return _ratio(self.hits.sum(axis=2), self.truths.sum())

    @property
    def f1(self) -> Floats:
        """Harmonic mean `[S, T]` of precision and recall; 0 where there are boxes of either kind and no hit."""
        return _ratio(2 * self.hits.sum(axis=2), self.boxes.sum(axis=2) + self.truths.sum())

    @property
    def mean_iou(self) -> Floats:
        """Mean IoU `[S, T]` of the hits with their true boxes."""
        return _ratio(self.iou_sums.sum(axis=2), self.hits.sum(axis=2))

    @property
    def boxes_per_image(self) -> Floats:
        """Pseudo-boxes per image `[S, T]`, of those that can be judged."""
        return _ratio(self.boxes.sum(axis=2), self.images)

    @property
    def truths_per_image(self) -> float:
        """True boxes per image."""
        return float(self.truths.sum() / self.images)

    def of_class(self, label: int) -> ThresholdGrid:
        """Return the grid of one class alone (C = 1)."""
        own = slice(label, label + 1)
        return replace(
            self,
            boxes=self.boxes[..., own],
            hits=self.hits[..., own],
            iou_sums=self.iou_sums[..., own],
            truths=self.truths[own],
        )

    def at_quality(self, column: int) -> ThresholdGrid:
        """Return the grid of one quality threshold alone (T = 1)."""
        own = slice(column, column + 1)
        found = replace(self, boxes=self.boxes[:, own], hits=self.hits[:, own], iou_sums=self.iou_sums[:, own])
        return replace(found, qualities=self.qualities[own])

    def at(self, row: int | Sequence[int], column: int) -> Reading:
        """Return the point of `scores[row]` and `qualities[column]`; `row` may be one for each class.

        What another class keeps changes nothing for a class: NMS, pairs and rates' sums are class by class. Only the
        best `model.test_detections` of all classes are taken before the score threshold, whatever that is.
        """
        rows = np.broadcast_to(np.asarray(row), len(self.truths))
        point = rows, column, np.arange(len(rows))
        boxes, hits = int(self.boxes[point].sum()), int(self.hits[point].sum())
        truths, iou_sum = int(self.truths.sum()), float(self.iou_sums[point].sum())
        return Reading(
            score=self.scores[rows.min()],
            highest_score=None if rows.min() == rows.max() else self.scores[rows.max()],
            quality=self.qualities[column],
            boxes=boxes,
            hits=hits,
            boxes_per_image=boxes / self.images,
            precision=_rate(hits, boxes),
            recall=_rate(hits, truths),
            f1=_rate(2 * hits, boxes + truths),
            mean_iou=_rate(iou_sum, hits),
            is_complete=bool(self.incomplete[rows.min()] == 0),
        )


def threshold_grid(
    images: Iterable[TrueLabel],
    scores: Sequence[float],
    selects: Sequence[tuple[float | None, Select]],
    num_classes: int,
    *,
    iou_threshold: float = 0.5,
) -> ThresholdGrid:
    """Judge labels at all score thresholds (ascending) and at the quality thresholds of `selects`.

    `selects` are pairs of a quality threshold and the method's selection with it, and with a score threshold at or
    below `scores[0]`. Raises ValueError where there is no image or the scores do not ascend.
    """
    thresholds = np.asarray(scores, dtype=np.float64)
    if not len(scores) or (np.diff(thresholds) <= 0).any():
        raise ValueError(f"score thresholds must ascend, got {list(scores)}")
    limits = thresholds.astype(np.float32)  # as torch compares them with float32 scores
    shape = len(scores), len(selects), num_classes
    boxes, hits, iou_sums = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape)
    truths, incomplete = np.zeros(num_classes, np.int64), np.zeros(len(scores), np.int64)
    size = len(scores) * num_classes
    number = 0
    for image in images:
        number += 1
        truths += np.bincount(image.classes, minlength=num_classes)
        incomplete += image.label.complete_above > thresholds
        for column, (_, select) in enumerate(selects):
            kept = select(image.label)
            classes = kept.classes.numpy()
            pair = LabelPair(kept.boxes.numpy(), classes, image.boxes, image.classes, image.verified)
            iou = own_truth_iou(pair, iou_threshold)
            ends = np.searchsorted(limits, kept.scores.numpy()) - 1  # the highest threshold below each score, or -1
            place = ends * num_classes + classes
            is_hit = (ends >= 0) & (iou > 0)
            counted = (ends >= 0) & pair.is_judged(iou > 0)
            boxes[:, column] += np.bincount(place[counted], minlength=size).reshape(-1, num_classes)
            hits[:, column] += np.bincount(place[is_hit], minlength=size).reshape(-1, num_classes)
            iou_sums[:, column] += np.bincount(place[is_hit], iou[is_hit], size).reshape(-1, num_classes)
    if not number:
        raise ValueError("no labels to judge")
    return ThresholdGrid(
        scores=tuple(scores),
        qualities=tuple(quality for quality, _ in selects),
        images=number,
        boxes=_from_above(boxes),
        hits=_from_above(hits),
        iou_sums=_from_above(iou_sums),
        truths=truths,
        incomplete=incomplete,
    )


def _from_above(ends: np.ndarray) -> np.ndarray:
    """Return for each score threshold the sum of what ends there or higher."""
    return np.flip(np.flip(ends, axis=0).cumsum(axis=0), axis=0)


def _ratio(part: np.ndarray, whole: np.ndarray | int) -> Floats:
    whole = np.asarray(whole, dtype=np.float64)
    rates = np.full(part.shape, np.nan)
    np.divide(part, whole, out=rates, where=whole > 0)
    return rates


def _rate(part: float, whole: int) -> float | None:
    return part / whole if whole else None
