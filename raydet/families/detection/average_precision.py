"""COCO's average precision in NumPy, all images at once: the precision arrays of pycocotools, bit for bit.

Detections of an image and a class take boxes, best score first: each the one it overlaps most of those that are left,
and a box that is not to be found (a crowd region, a size that is not asked for) only where there is no other. Few
detections overlap a box of their class enough to take one, and precision falls between those that do, so nothing is
computed at the others. Of each image and class the first detections with a chance are looked at together, then the
second ones, and so on; whether a box is taken is one bit for each size and threshold of IoU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raydet.families.detection.box_pairs import (
    Bools,
    Floats,
    Ints,
    Judgeable,
    SaidBoxes,
    TrueBoxes,
    places_in_runs,
    sorted_by,
)

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
SIZES = np.array([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)])  # square pixels: all, small, medium, large

Bits = NDArray[np.uint64]  # bit a * 10 + t: size a, threshold t
_UP_TO = np.array([(1 << passed) - 1 for passed in range(len(IOUS) + 1)], dtype=np.uint64)  # by thresholds passed
_OF_SIZE = np.array([int(_UP_TO[-1]) << (a * len(IOUS)) for a in range(len(SIZES))], dtype=np.uint64)
_EVERY_SIZE = np.array([sum(1 << (a * len(IOUS)) for a in range(len(SIZES)))], dtype=np.uint64)


@dataclass(frozen=True, slots=True, eq=False)
class _Chances:
    """Detections and boxes of one image and class each that overlap enough for the lowest threshold, by detection."""

    detection: Ints  # [P] place among the detections that have a chance
    box: Ints  # [P] row of the true boxes
    iou: Floats  # [P]
    rows: Ints  # [C] row of each detection that has a chance


@dataclass(frozen=True, slots=True, eq=False)
class _Taken:
    """What detections take."""

    rows: Ints  # [C] of those that have a chance
    right: Bits  # [C] where they take a box that is to be found
    spare: Bits  # [C] where they take another one


@dataclass(frozen=True, slots=True, eq=False)
class _Ranks:
    """Detections by class, best score first."""

    rows: Ints  # [N]
    ends: Ints  # [K + 1] where each class begins, and the last one ends
    at: Ints  # [M] places of those that take a box at any threshold and size, ascending
    classes: Ints  # [M] theirs
    right: Bits  # [M] as in `_Taken`
    spare: Bits  # [M]


def numpy_precision(
    truth: TrueBoxes, said: SaidBoxes, judged: Judgeable, num_classes: int, unjudged: Bools | None = None
) -> np.ndarray:
    """Return the precision `[T, R, K, A]`; -1 where a class has no box of a size.

    `unjudged` `[D]`: such a detection, if it finds nothing, is neither right nor wrong.
    """
    sizes = _sizes(truth.areas)
    sizes[truth.crowd] = 0
    ranks = _ranks(said, judged, num_classes, _take(truth, said, _chances(truth, said, judged), sizes))
    wrong = np.ones(len(said.scores), dtype=np.bool_) if unjudged is None else ~unjudged
    areas, is_judged = _pixels(said.sides)[ranks.rows], wrong[ranks.rows]
    precision = np.full((len(IOUS), len(RECALLS), num_classes, len(SIZES)), -1.0)
    for a, (low, high) in enumerate(SIZES):
        boxes = np.bincount(truth.classes[(sizes & _OF_SIZE[a]) > 0], minlength=num_classes)
        ends_of = np.append(0, np.cumsum(boxes))
        highest = _highest(ranks, a, (areas >= low) & (areas <= high) & is_judged, ends_of)
        for k in np.flatnonzero(boxes):
            best = np.maximum.accumulate(highest[:, ends_of[k] : ends_of[k + 1]][:, ::-1], axis=1)[:, ::-1]
            # A recall of 0 is that of the first detection: what comes behind it counts, as there.
            wanted = np.searchsorted(np.arange(1, boxes[k] + 1) / boxes[k], RECALLS)
            precision[:, :, k, a] = best[:, wanted]
    return precision


def _ranks(said: SaidBoxes, judged: Judgeable, num_classes: int, taken: _Taken) -> _Ranks:
    order = judged.by_class
    place = np.empty(len(said.scores), dtype=np.int64)
    place[order] = np.arange(len(order))
    some = np.flatnonzero(taken.right | taken.spare)
    some = some[np.argsort(place[taken.rows[some]])]
    rows = taken.rows[some]
    ends = np.searchsorted(said.classes[order], np.arange(num_classes + 1))
    return _Ranks(order, ends, place[rows], said.classes[rows], taken.right[some], taken.spare[some])


def _highest(ranks: _Ranks, size: int, counts: Bools, boxes: Ints) -> Floats:
    """Return the precision `[T, G]` at the first box that is found of a class, at the second, and so on; 0: not found.

    `counts` `[N]`: which detections are wrong if they take nothing; `boxes` `[K + 1]`: where those of each class that
    are to be found begin.
    """
    highest = np.zeros((len(IOUS), boxes[-1]))
    counted = np.append(0, np.cumsum(counts))
    before, counts = counted[ranks.at + 1] - counted[ranks.ends[ranks.classes]], counts[ranks.at]
    starts = np.searchsorted(ranks.at, ranks.ends)
    for t in range(len(IOUS)):
        bit = np.uint64(1 << (size * len(IOUS) + t))
        right, spare = (ranks.right & bit) > 0, (ranks.spare & bit) > 0
        hits = np.flatnonzero(right)
        of_class = ranks.classes[hits]
        nth = np.arange(1, len(hits) + 1) - np.searchsorted(hits, starts)[of_class]
        # What takes a box counts if that is to be found, whatever its own size.
        more = np.append(0, np.cumsum((right & ~counts).astype(np.int8) - (spare & counts), dtype=np.int64))
        number = before[hits] + more[hits + 1] - more[starts[of_class]]
        highest[t, boxes[of_class] + nth - 1] = nth / (number + np.spacing(1))
    return highest


def _pixels(sides: Floats) -> Floats:
    pixels: Floats = sides[:, 0] * sides[:, 1]
    return pixels


def _sizes(areas: Floats) -> Bits:
    """Return the bits of the sizes that areas have, at all thresholds."""
    bits = np.zeros(len(areas), dtype=np.uint64)
    for (low, high), own in zip(SIZES, _OF_SIZE, strict=True):
        bits[(areas >= low) & (areas <= high)] |= own
    return bits


def _chances(truth: TrueBoxes, said: SaidBoxes, judged: Judgeable) -> _Chances:
    pairs = judged.pairs
    same = np.flatnonzero(pairs.same)
    detection, box, overlap = pairs.detection[same], pairs.box[same], pairs.overlap[same]
    ours, theirs = _pixels(said.sides)[judged.rows[detection]], _pixels(truth.sides)[box]
    iou = overlap / np.where(truth.crowd[box], ours, ours + theirs - overlap)
    able = np.flatnonzero(iou >= IOUS[0])
    detection = detection[able]
    is_first = np.diff(detection, prepend=-1) > 0
    return _Chances(np.cumsum(is_first) - 1, box[able], iou[able], judged.rows[detection[is_first]])


def _take(truth: TrueBoxes, said: SaidBoxes, chances: _Chances, sizes: Bits) -> _Taken:
    """Let detections take boxes; `sizes` `[G]`: where each of these is to be found."""
    right, spare = (np.zeros(len(chances.rows), dtype=np.uint64) for _ in range(2))
    left = np.full(len(truth.crowd), _OF_SIZE.sum())
    passed = _UP_TO[np.searchsorted(IOUS, chances.iou, side="right")] * _EVERY_SIZE
    for turn in _turns(said, chances):
        for into, of in ((right, sizes), (spare, ~sizes)):
            for pairs in turn:
                detection, box = chances.detection[pairs], chances.box[pairs]
                takes = passed[pairs] & of[box] & left[box] & ~(right[detection] | spare[detection])
                into[detection] |= takes
                left[box] &= ~np.where(truth.crowd[box], np.uint64(0), takes)  # a crowd has room for many
    return _Taken(chances.rows, right, spare)


def _turns(said: SaidBoxes, chances: _Chances) -> Iterator[list[Ints]]:
    """Yield pairs: of the first detections of all images and classes, those with the boxes they overlap most, those
    with the next ones, and so on; then of the second detections. No two pairs of an array share a detection or a box.
    """
    images, classes = said.images[chances.rows], said.classes[chances.rows]
    cells = sorted_by(classes)
    cells = cells[sorted_by(images[cells])]
    rank = np.empty(len(cells), dtype=np.int64)
    rank[cells] = places_in_runs(images[cells], classes[cells])
    choice = np.zeros(len(chances.box), dtype=np.int64)
    several = np.flatnonzero(np.bincount(chances.detection)[chances.detection] > 1)
    iou, detection = chances.iou[several], chances.detection[several]
    order = np.lexsort((-several, -iou, detection))  # of equal overlaps the later box, as there
    choice[several[order]] = places_in_runs(detection[order])
    order = sorted_by(choice)
    order = order[sorted_by(rank[chances.detection[order]])]
    starts = np.flatnonzero(np.diff(rank[chances.detection[order]], prepend=-1))
    for turn in np.split(order, starts[1:]):
        steps = np.flatnonzero(np.diff(choice[turn], prepend=-1))
        yield np.split(turn, steps[1:])
