"""How good pseudo-labels are, measured against ground truth that training never sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

HIT_IOU = 0.5  # of a pseudo-box with a true box of its class
BINS = 10  # of IoU, [0, 0.1), [0.1, 0.2), ..., [0.9, 1]


@dataclass(frozen=True, slots=True, eq=False)
class LabelPair:
    """One image: its pseudo-boxes, best score first, beside its true boxes (without crowd regions)."""

    boxes: np.ndarray  # [N, 4] float xyxy, pixels of the original image
    classes: np.ndarray  # [N] int, 0-based
    truth_boxes: np.ndarray  # [M, 4]
    truth_classes: np.ndarray  # [M]
    verified: np.ndarray | None = None  # classes of which every object has a box here; None: all

    def is_judged(self, is_hit: np.ndarray) -> np.ndarray:
        """Return `[N]` which pseudo-boxes can be judged: hits, and those of verified classes. Of any other nobody knows
        whether it is right (LVIS)."""
        everything = np.ones(len(self.classes), dtype=np.bool_)
        return everything if self.verified is None else is_hit | np.isin(self.classes, self.verified)


@dataclass(frozen=True, slots=True, eq=False)
class PseudoLabelQuality:
    """Counts over images; every rate is None where it would be 0 / 0."""

    images: int
    boxes: np.ndarray  # [C] int, pseudo-boxes per class
    truths: np.ndarray  # [C] int, true boxes per class
    hits: np.ndarray  # [C] int, pseudo-boxes that find a true box of their class of their own
    iou_histogram: np.ndarray  # [10] int, best IoU of each pseudo-box (or of each true box, see `match_direction`)
    class_errors: np.ndarray  # [10] int, those of the above whose counterpart has another class
    mean_iou: float | None  # of the best IoUs

    @property
    def precision(self) -> float | None:
        """Share of pseudo-boxes that are hits."""
        return _ratio(self.hits.sum(), self.boxes.sum())

    @property
    def recall(self) -> float | None:
        """Share of true boxes that are hit."""
        return _ratio(self.hits.sum(), self.truths.sum())

    @property
    def class_error_rate(self) -> float | None:
        """Share of the matched boxes whose counterpart has another class."""
        return _ratio(self.class_errors.sum(), self.iou_histogram.sum())

    def precision_of(self, label: int) -> float | None:
        """Precision of one class."""
        return _ratio(self.hits[label], self.boxes[label])

    def recall_of(self, label: int) -> float | None:
        """Recall of one class."""
        return _ratio(self.hits[label], self.truths[label])


def pseudo_label_quality(
    pairs: Iterable[LabelPair],
    num_classes: int,
    *,
    match_direction: Literal["box", "truth"] = "box",
) -> PseudoLabelQuality:
    """Compare pseudo-boxes with the truth.

    The histograms take, for each pseudo-box, the true box of highest IoU, of whatever class; a class error is a
    pseudo-box whose class differs from that box's. `match_direction="truth"` takes each true box's best pseudo-box
    instead. What overlaps nothing has IoU 0 and no counterpart, hence no class error.
    Hits, for precision and recall, pair one to one: each pseudo-box, best score first, takes the free true box of its
    class with the highest IoU, if that is at least `HIT_IOU`. Pseudo-boxes that cannot be judged
    (`LabelPair.is_judged`) are left out of everything.
    """
    boxes, truths, hits = (np.zeros(num_classes, dtype=np.int64) for _ in range(3))
    best, wrong = [np.zeros(0)], [np.zeros(0, dtype=bool)]
    images = 0
    for pair in pairs:
        images += 1
        iou = _iou(pair.boxes, pair.truth_boxes)
        same = pair.classes[:, None] == pair.truth_classes[None, :]
        is_hit = _own_iou(iou, same, HIT_IOU) > 0
        hits += np.bincount(pair.classes[is_hit], minlength=num_classes)
        judged = pair.is_judged(is_hit)
        iou, same = iou[judged], same[judged]
        boxes += np.bincount(pair.classes[judged], minlength=num_classes)
        truths += np.bincount(pair.truth_classes, minlength=num_classes)
        image_best, image_wrong = _best(iou, same) if match_direction == "box" else _best(iou.T, same.T)
        best.append(image_best)
        wrong.append(image_wrong)
    ious, errors = np.concatenate(best), np.concatenate(wrong)
    # 1e-9: an IoU of exactly 0.3 belongs to [0.3, 0.4) although 0.3 * 10 falls just short of 3.
    bins = np.minimum(ious * BINS + 1e-9, BINS - 1).astype(np.int64)
    return PseudoLabelQuality(
        images=images,
        boxes=boxes,
        truths=truths,
        hits=hits,
        iou_histogram=np.bincount(bins, minlength=BINS),
        class_errors=np.bincount(bins[errors], minlength=BINS),
        mean_iou=float(ious.mean()) if ious.size else None,
    )


def own_truth_iou(pair: LabelPair, iou_threshold: float = HIT_IOU) -> np.ndarray:
    """Return the IoU `[N]` float64 of each pseudo-box with the true box that it has for its own, 0 where it has none.

    Pseudo-boxes choose in their order, as in `pseudo_label_quality`, so that those behind a box do not concern it.
    """
    same = pair.classes[:, None] == pair.truth_classes[None, :]
    return _own_iou(_iou(pair.boxes, pair.truth_boxes), same, iou_threshold)


def _best(iou: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's highest IoU `[N]` and whether all columns that reach it have another class `[N]`."""
    if iou.shape[1] == 0:
        return np.zeros(len(iou)), np.zeros(len(iou), dtype=bool)
    best = iou.max(axis=1)
    agrees = (same & (iou == best[:, None])).any(axis=1)
    return best, (best > 0) & ~agrees


def _own_iou(iou: np.ndarray, same: np.ndarray, threshold: float) -> np.ndarray:
    """Return the IoU `[N]` of each row with the column that it takes for its own; 0 where none is left for it."""
    free = np.where(same & (iou >= threshold), iou, 0.0)
    own = np.zeros(len(free))
    for row in np.flatnonzero(free.any(axis=1)):
        column = free[row].argmax()
        own[row] = free[row, column]
        if own[row] > 0:
            free[:, column] = 0.0  # taken
    return own


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU `[N, M]` of boxes `[N, 4]` with boxes `[M, 4]`, in float64."""
    a, b = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    inter = (high - low).clip(min=0).prod(axis=-1)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).clip(min=0).prod(axis=-1) for x in (a, b))
    return np.asarray(inter / np.maximum(area_a + area_b - inter, np.finfo(np.float64).tiny))


def _ratio(part: np.integer, whole: np.integer) -> float | None:
    return float(part / whole) if whole else None
