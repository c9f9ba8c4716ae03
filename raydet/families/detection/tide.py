"""What keeps a detector's AP50 down: its errors by kind, and how much AP each kind costs (Bolya et al., ECCV 2020).

Every detection that finds nothing has one kind of error, by its best overlaps with true boxes (foreground from IoU 0.5
on, background up to 0.1): Cls (right place, wrong class), Loc (right class, badly placed), Both, Dupe (the object was
found already), Bkg (nothing is there). True boxes that no detection finds, nor would after Cls and Loc are mended, are
Miss. What a kind costs is the gain of AP50 if its errors alone were mended: the class or place made right where the
object is not found otherwise, else the detection taken away; missed boxes taken off the number of boxes to be found.
FalsePos takes all wrong detections away, FalseNeg all boxes that were not found. Gains do not add up to 1 - AP50.

Where the paper leaves something open, its authors' toolbox decides (section 2.2 there): a place is judged before a
class, a class before a duplicate; of several detections that mending puts on one object the best score has it. Classes
and matching are COCO's, so that what is improved upon is the AP50 of `coco.py`. A class without anything left to find
or found is left out of the mean, as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FOREGROUND, BACKGROUND = 0.5, 0.1
MOST_PER_CLASS = 100  # detections of a class in an image, as COCO counts
KINDS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
NAMES = (*KINDS, "FalsePos", "FalseNeg")
RIGHT, IGNORED = -1, -2  # beside the numbers of KINDS
CLS, LOC, BOTH, DUPE, BKG = range(5)
RECALLS = np.linspace(0.0, 1.0, 101)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TideErrors:
    """How many errors of each kind there are, and what AP50 gains if they are mended, as a share; None: undefined."""

    gains: dict[str, float | None]  # by NAMES
    counts: dict[str, int]  # by KINDS


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes of any number of images."""

    images: Ints  # [N]
    boxes: Floats  # [N, 4] xyxy, pixels
    classes: Ints  # [N] from 0
    scores: Floats | None = None  # [N] of detections
    crowd: Bools | None = None  # [N] of true boxes

    def rows_by_image(self) -> dict[int, Ints]:
        """Return the rows of each image, in order."""
        order = np.argsort(self.images, kind="stable")
        images, first = np.unique(self.images[order], return_index=True)
        return dict(zip(images.tolist(), np.split(order, first[1:]), strict=True)) if len(order) else {}


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """What became of each detection and each true box."""

    kinds: Ints  # [D] number in KINDS, RIGHT or IGNORED
    mended: Ints  # [D] class that mending gives a detection (Cls, Loc), -1 where it is taken away
    found: Bools  # [G]
    missed: Bools  # [G]


def tide_errors(truth: Boxes, said: Boxes, num_classes: int) -> TideErrors:
    """Return the errors of detections `said`, which need not be sorted, beside `truth`."""
    assert said.scores is not None and truth.crowd is not None
    judged = _judge(truth, said)
    real = ~truth.crowd
    boxes = np.bincount(truth.classes[real], minlength=num_classes)
    order = np.argsort(-said.scores, kind="stable")
    order = order[judged.kinds[order] != IGNORED]
    kinds, classes, mended = judged.kinds[order], said.classes[order], judged.mended[order]
    right = kinds == RIGHT
    base = _mean_ap(classes, right, boxes, boxes)
    gains: dict[str, float | None] = {}
    for number, name in enumerate(KINDS[:5]):
        own = kinds == number
        kept = ~own | (mended >= 0)
        fixed = np.where(own, mended, classes)[kept]
        gains[name] = _gain(_mean_ap(fixed, (right | own)[kept], boxes, boxes), base)
    left = boxes - np.bincount(truth.classes[judged.missed], minlength=num_classes)
    gains["Miss"] = _gain(_mean_ap(classes, right, left, boxes), base)
    gains["FalsePos"] = _gain(_mean_ap(classes[right], right[right], boxes, boxes), base)
    left = np.bincount(truth.classes[judged.found], minlength=num_classes)
    gains["FalseNeg"] = _gain(_mean_ap(classes, right, left, boxes), base)
    counts = {name: int((kinds == number).sum()) for number, name in enumerate(KINDS[:5])}
    return TideErrors(gains, {**counts, "Miss": int(judged.missed.sum())})


def _judge(truth: Boxes, said: Boxes) -> _Judged:
    number, boxes = len(said.images), len(truth.images)
    all_found = _Judged(
        np.full(number, BKG), np.full(number, -1), np.zeros(boxes, dtype=np.bool_), np.zeros(boxes, dtype=np.bool_)
    )
    truths, none = truth.rows_by_image(), np.zeros(0, dtype=np.int64)
    detections = said.rows_by_image()
    for image in truths.keys() | detections.keys():
        _judge_image(truth, said, truths.get(image, none), detections.get(image, none), all_found)
    return all_found


def _judge_image(truth: Boxes, said: Boxes, boxes: Ints, rows: Ints, into: _Judged) -> None:
    """Judge one image's detections `rows` by its true boxes `boxes`."""
    assert said.scores is not None and truth.crowd is not None
    rows = rows[np.argsort(-said.scores[rows], kind="stable")]
    beyond = _place_in_class(said.classes[rows]) >= MOST_PER_CLASS
    into.kinds[rows[beyond]] = IGNORED
    rows = rows[~beyond]
    crowd, boxes = boxes[truth.crowd[boxes]], boxes[~truth.crowd[boxes]]
    overlap, own_area = _intersections(said.boxes[rows], truth.boxes[boxes])
    ious = overlap / np.maximum(own_area[:, None] + _areas(truth.boxes[boxes])[None] - overlap, 1e-12)
    same = said.classes[rows][:, None] == truth.classes[boxes][None]
    is_found = np.zeros(len(boxes), dtype=np.bool_)
    is_right = np.zeros(len(rows), dtype=np.bool_)
    able = same & (ious >= FOREGROUND)
    for place in np.flatnonzero(able.any(axis=1)):  # best score first: each takes the best box that is left
        free = np.flatnonzero(able[place] & ~is_found)
        if len(free):
            is_found[free[np.argmax(ious[place, free])]] = True
            is_right[place] = True
    in_crowd, own_area = _intersections(said.boxes[rows], truth.boxes[crowd])
    same_crowd = said.classes[rows][:, None] == truth.classes[crowd][None]
    is_ignored = ~is_right & ((in_crowd / np.maximum(own_area, 1e-12)[:, None] >= FOREGROUND) & same_crowd).any(axis=1)
    kinds, target = _kinds(ious, same, is_found)
    kinds[is_right], kinds[is_ignored] = RIGHT, IGNORED
    into.kinds[rows] = kinds
    usable = np.zeros(len(boxes), dtype=np.bool_)
    for place in np.flatnonzero((kinds == CLS) | (kinds == LOC)):  # best score first
        box = target[place]
        if not is_found[box] and not usable[box]:
            usable[box] = True
            into.mended[rows[place]] = truth.classes[boxes[box]]
    into.found[boxes[is_found]] = True
    into.missed[boxes[~is_found & ~usable]] = True


def _kinds(ious: Floats, same: Bools, is_found: Bools) -> tuple[Ints, Ints]:
    """Return the kind `[D]` of each detection if it is wrong, and the true box `[D]` that a Cls or Loc is about."""
    if not ious.shape[1]:
        return np.full(len(ious), BKG), np.zeros(len(ious), dtype=np.int64)
    own, other = np.where(same, ious, 0.0), np.where(same, 0.0, ious)
    of_own, of_other, of_any = own.max(axis=1), other.max(axis=1), ious.max(axis=1)
    is_loc = (of_own >= BACKGROUND) & (of_own < FOREGROUND)
    is_dupe = (own * is_found).max(axis=1) >= FOREGROUND
    kinds = np.select(
        [is_loc, of_other >= FOREGROUND, is_dupe, of_any <= BACKGROUND], [LOC, CLS, DUPE, BKG], default=BOTH
    )
    return kinds, np.where(is_loc, own.argmax(axis=1), other.argmax(axis=1))


def _mean_ap(classes: Ints, right: Bools, boxes: Ints, to_begin_with: Ints) -> float | None:
    """Return AP50 of detections, best score first, with so many `boxes` of each class to be found.

    Of the classes that had boxes to begin with; one without boxes and detections has no AP.
    """
    found = []
    order = np.argsort(classes, kind="stable")  # those of a class stay in order of their scores
    ends = np.searchsorted(classes[order], np.arange(len(boxes) + 1))
    for label in np.flatnonzero(to_begin_with):
        hits = right[order[ends[label] : ends[label + 1]]]
        if boxes[label] or len(hits):
            found.append(_ap(hits, int(boxes[label])))
    return float(np.mean(found)) if found else None


def _ap(hits: Bools, boxes: int) -> float:
    """Return the mean of the precision at 101 recalls, as COCO interpolates it."""
    if not boxes or not hits.any():
        return 0.0
    rights = np.cumsum(hits)
    precision = np.maximum.accumulate((rights / np.arange(1, len(hits) + 1))[::-1])[::-1]
    at = np.searchsorted(rights / boxes, RECALLS, side="left")
    return float(np.append(precision, 0.0)[at].mean())


def _gain(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _place_in_class(classes: Ints) -> Ints:
    """Return how many of the same class come before each."""
    order = np.argsort(classes, kind="stable")
    ranked = classes[order]
    places = np.empty(len(classes), dtype=np.int64)
    places[order] = np.arange(len(classes)) - np.searchsorted(ranked, ranked, side="left")
    return places


def _areas(boxes: Floats) -> Floats:
    area: Floats = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return area


def _intersections(ours: Floats, theirs: Floats) -> tuple[Floats, Floats]:
    """Return the areas `[N, M]` that boxes have in common, and those `[N]` of `ours`."""
    low = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    high = np.minimum(ours[:, None, 2:], theirs[None, :, 2:])
    return np.prod(np.clip(high - low, 0.0, None), axis=2), _areas(ours)
