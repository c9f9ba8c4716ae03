"""Which kind of error each detection of any number of images has, and which true boxes are found; see `tide.py`.

Detections and true boxes of an image are looked at in pairs, those of many images in one array: an image after another
took three times as long as COCO's own figures do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FOREGROUND, BACKGROUND = 0.5, 0.1
MOST_PER_CLASS = 100  # detections of a class in an image, as COCO counts
MOST_PAIRS = 100_000  # at once, but for an image that has more; two million was slower
CLS, LOC, BOTH, DUPE, BKG = range(5)
RIGHT, IGNORED = -1, -2  # beside the kinds

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class TrueBoxes:
    """True boxes of any number of images."""

    images: Ints  # [G]
    boxes: Floats  # [G, 4] xyxy, pixels
    classes: Ints  # [G] from 0
    crowd: Bools  # [G]


@dataclass(frozen=True, slots=True, eq=False)
class SaidBoxes:
    """Detections of any number of images."""

    images: Ints  # [D]
    boxes: Floats  # [D, 4] xyxy, pixels
    classes: Ints  # [D] from 0
    scores: Floats  # [D]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What became of each detection and each true box."""

    kinds: Ints  # [D] CLS to BKG, RIGHT or IGNORED
    mended: Ints  # [D] class that mending gives a detection (CLS, LOC), -1 where it is taken away
    found: Bools  # [G]
    usable: Bools  # [G] not found, but would be after CLS and LOC are mended


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Detections and true boxes of one image each, by detection, then in the order of the true boxes."""

    detection: Ints  # [P] place among the detections that were asked for, never falling
    box: Ints  # [P] row of the true boxes
    overlap: Floats  # [P] pixels that both cover
    same: Bools  # [P] of one class


def judge(truth: TrueBoxes, said: SaidBoxes) -> Judged:
    """Return what became of detections `said`, which need not be sorted, beside `truth`."""
    number, boxes = len(said.images), len(truth.images)
    none = np.zeros(boxes, dtype=np.bool_)
    into = Judged(np.full(number, BKG), np.full(number, -1), none, none.copy())
    rows = np.lexsort((-said.scores, said.images))  # of an image: best score first, equal scores as they were given
    beyond = _places(said.images[rows], said.classes[rows]) >= MOST_PER_CLASS
    into.kinds[rows[beyond]] = IGNORED
    by_image = np.argsort(truth.images, kind="stable")
    real, crowd = by_image[~truth.crowd[by_image]], by_image[truth.crowd[by_image]]
    for some in _parcels(said.images, rows[~beyond], truth.images[real]):
        _judge_some(truth, said, some, real, crowd, into)
    return into


def _parcels(images: Ints, rows: Ints, of_boxes: Ints) -> Iterator[Ints]:
    """Yield detections `rows`, those of an image never apart, so that a parcel has about `MOST_PAIRS` pairs."""
    _, counts = _boxes_of(images[rows], of_boxes)
    before = np.cumsum(counts) - counts
    starts = np.flatnonzero(np.diff(images[rows], prepend=images[rows[:1]] - 1))  # each image's first detection
    _, heads = np.unique(before[starts] // MOST_PAIRS, return_index=True)
    yield from np.split(rows, starts[heads[1:]])


def _judge_some(truth: TrueBoxes, said: SaidBoxes, rows: Ints, real: Ints, crowd: Ints, into: Judged) -> None:
    """Judge detections `rows`, by image and best score first, by the true boxes `real` and the regions `crowd`."""
    pairs = _pairs(truth, said, rows, real)
    areas = _areas(said.boxes[rows])
    union = areas[pairs.detection] + _areas(truth.boxes)[pairs.box] - pairs.overlap
    ious = pairs.overlap / np.maximum(union, 1e-12)
    is_right = _match(pairs, ious, len(rows), into.found)
    kinds, target = _kinds(pairs, ious, len(rows), into.found)
    kinds[is_right] = RIGHT
    kinds[_in_crowd(_pairs(truth, said, rows, crowd), areas) & ~is_right] = IGNORED
    into.kinds[rows] = kinds
    mendable = target[np.isin(kinds[pairs.detection[target]], (CLS, LOC)) & ~into.found[pairs.box[target]]]
    box, best = np.unique(pairs.box[mendable], return_index=True)  # of several on one object the best score has it
    into.usable[box] = True
    into.mended[rows[pairs.detection[mendable[best]]]] = truth.classes[box]


def _match(pairs: _Pairs, ious: Floats, number: int, found: Bools) -> Bools:
    """Return which detections are right, best score first: each takes the best box left, which becomes `found`."""
    able = np.flatnonzero(pairs.same & (ious >= FOREGROUND))
    able = able[np.lexsort((-ious[able], pairs.detection[able]))]
    is_right = np.zeros(number, dtype=np.bool_)
    for detection, box in zip(pairs.detection[able].tolist(), pairs.box[able].tolist(), strict=True):
        if not is_right[detection] and not found[box]:
            is_right[detection] = found[box] = True
    return is_right


def _kinds(pairs: _Pairs, ious: Floats, number: int, found: Bools) -> tuple[Ints, Ints]:
    """Return the kind `[D]` of each detection if it is wrong, and the pairs `[M]` that each CLS and LOC is about."""
    own, other = np.where(pairs.same, ious, 0.0), np.where(pairs.same, 0.0, ious)
    of_own, of_other = _largest(pairs, own, number), _largest(pairs, other, number)
    of_any, of_found = np.maximum(of_own, of_other), _largest(pairs, own * found[pairs.box], number)
    is_loc, is_cls = (of_own >= BACKGROUND) & (of_own < FOREGROUND), of_other >= FOREGROUND
    choices = [is_loc, is_cls, of_found >= FOREGROUND, of_any <= BACKGROUND]
    kinds = np.select(choices, [LOC, CLS, DUPE, BKG], default=BOTH)
    detection = pairs.detection
    wanted = np.where(is_loc[detection], own == of_own[detection], is_cls[detection] & (other == of_other[detection]))
    about = np.flatnonzero(wanted)
    return kinds, about[np.diff(detection[about], prepend=-1) > 0]  # the first of equal overlaps


def _in_crowd(pairs: _Pairs, areas: Floats) -> Bools:
    """Return which detections, of so many pixels, lie in a crowd region of their class by half."""
    inside = np.where(pairs.same, pairs.overlap / np.maximum(areas, 1e-12)[pairs.detection], 0.0)
    return _largest(pairs, inside, len(areas)) >= FOREGROUND


def _pairs(truth: TrueBoxes, said: SaidBoxes, rows: Ints, boxes: Ints) -> _Pairs:
    """Return detections `rows` with the true boxes `boxes`, which are sorted by image, of the same images."""
    first, counts = _boxes_of(said.images[rows], truth.images[boxes])
    detection = np.repeat(np.arange(len(rows)), counts)
    box = boxes[np.arange(len(detection)) + np.repeat(first - (np.cumsum(counts) - counts), counts)]
    ours, theirs = said.boxes[rows].T, truth.boxes.T
    sides = [
        np.minimum(ours[axis + 2][detection], theirs[axis + 2][box])
        - np.maximum(ours[axis][detection], theirs[axis][box])
        for axis in (0, 1)
    ]
    overlap = np.clip(sides[0], 0.0, None) * np.clip(sides[1], 0.0, None)
    return _Pairs(detection, box, overlap, said.classes[rows][detection] == truth.classes[box])


def _boxes_of(images: Ints, of_boxes: Ints) -> tuple[Ints, Ints]:
    """Return where the boxes of each detection's image begin in the sorted `of_boxes`, and how many they are."""
    first = np.searchsorted(of_boxes, images, side="left")
    return first, np.searchsorted(of_boxes, images, side="right") - first


def _largest(pairs: _Pairs, values: Floats, number: int) -> Floats:
    """Return the largest value, none of them negative, of each detection's pairs; 0 where it has none."""
    largest = np.zeros(number)
    starts = np.flatnonzero(np.diff(pairs.detection, prepend=-1))
    if len(starts):
        largest[pairs.detection[starts]] = np.maximum.reduceat(values, starts)
    return largest


def _places(images: Ints, classes: Ints) -> Ints:
    """Return how many detections of the same image and class come before each."""
    order = np.lexsort((classes, images))
    is_first = np.diff(images[order], prepend=-1) != 0
    is_first |= np.diff(classes[order], prepend=-1) != 0
    starts = np.flatnonzero(is_first)
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    return places


def _areas(boxes: Floats) -> Floats:
    area: Floats = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return area
