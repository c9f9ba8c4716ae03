"""Which kind of error each detection of any number of images has, and which true boxes are found; see `tide.py`.

Detections and true boxes of an image are looked at in pairs, those of many images in one array: an image after another
took three times as long as COCO's own figures do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raydet.families.detection.box_pairs import Bools, Floats, Ints, Judgeable, Pairs, SaidBoxes, TrueBoxes

FOREGROUND, BACKGROUND = 0.5, 0.1
CLS, LOC, BOTH, DUPE, BKG = range(5)
RIGHT, IGNORED = -1, -2  # beside the kinds

Kinds = NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What became of each detection and each true box."""

    kinds: Kinds  # [D] CLS to BKG, RIGHT or IGNORED
    mended: Ints  # [D] class that mending gives a detection (CLS, LOC), -1 where it is taken away
    found: Bools  # [G]
    usable: Bools  # [G] not found, but would be after CLS and LOC are mended


def judge(truth: TrueBoxes, said: SaidBoxes, judgeable: Judgeable) -> Judged:
    """Return what became of detections `said` beside `truth`."""
    rows, boxes = judgeable.rows, len(truth.images)
    found, usable = np.zeros(boxes, dtype=np.bool_), np.zeros(boxes, dtype=np.bool_)
    into = Judged(np.full(len(said.images), IGNORED, dtype=np.int8), np.full(len(said.images), -1), found, usable)
    areas, is_crowd = _areas(said.boxes[rows]), truth.crowd[judgeable.pairs.box]
    pairs, ious = judgeable.pairs, _ious(judgeable.pairs, areas, _areas(truth.boxes))
    near = ~is_crowd & (ious >= BACKGROUND)  # the others are background whatever they overlap
    pairs, ious = _some(pairs, near), ious[near]
    is_right = _match(pairs, ious, len(rows), found)
    kinds, target = _kinds(pairs, ious, len(rows), found)
    kinds[is_right] = RIGHT
    kinds[_in_crowd(_some(judgeable.pairs, is_crowd), areas) & ~is_right] = IGNORED
    into.kinds[rows] = kinds
    mendable = target[np.isin(kinds[pairs.detection[target]], (CLS, LOC)) & ~found[pairs.box[target]]]
    box, best = np.unique(pairs.box[mendable], return_index=True)  # of several on one object the best score has it
    usable[box] = True
    into.mended[rows[pairs.detection[mendable[best]]]] = truth.classes[box]
    return into


def _some(pairs: Pairs, which: Bools) -> Pairs:
    return Pairs(pairs.detection[which], pairs.box[which], pairs.overlap[which], pairs.same[which])


def _ious(pairs: Pairs, ours: Floats, theirs: Floats) -> Floats:
    """Return the overlap as a share of the union, of detections and boxes with so many pixels."""
    union = ours[pairs.detection] + theirs[pairs.box] - pairs.overlap
    return pairs.overlap / np.maximum(union, 1e-12, out=union)


def _match(pairs: Pairs, ious: Floats, number: int, found: Bools) -> Bools:
    """Return which detections are right, best score first: each takes the best box left, which becomes `found`."""
    is_right = np.zeros(number, dtype=np.bool_)
    able = np.flatnonzero(pairs.same & (ious >= FOREGROUND))
    detection, box = pairs.detection[able], pairs.box[able]
    has_choice = np.bincount(detection, minlength=1)[detection] > 1
    is_contested = np.zeros(len(found), dtype=np.bool_)
    is_contested[box[has_choice]] = True
    # Nobody has a choice: the first one takes the box.
    plain = np.flatnonzero(~is_contested[box])
    taken, first = np.unique(box[plain], return_index=True)
    found[taken] = is_right[detection[plain[first]]] = True
    rest = np.flatnonzero(is_contested[box])
    rest = rest[np.lexsort((-ious[able[rest]], detection[rest]))]
    for one, other in zip(detection[rest].tolist(), box[rest].tolist(), strict=True):
        if not is_right[one] and not found[other]:
            is_right[one] = found[other] = True
    return is_right


def _kinds(pairs: Pairs, ious: Floats, number: int, found: Bools) -> tuple[Kinds, Ints]:
    """Return the kind `[D]` of each detection if it is wrong, and the pairs `[M]` that each CLS and LOC is about."""
    own, other = np.where(pairs.same, ious, 0.0), np.where(pairs.same, 0.0, ious)
    of_own, of_other, of_found = _largest(pairs, (own, other, own * found[pairs.box]), number)
    of_any = np.maximum(of_own, of_other)
    is_loc, is_cls = (of_own >= BACKGROUND) & (of_own < FOREGROUND), of_other >= FOREGROUND
    kinds = np.where(of_any <= BACKGROUND, np.int8(BKG), np.int8(BOTH))
    for kind, those in ((DUPE, of_found >= FOREGROUND), (CLS, is_cls), (LOC, is_loc)):  # the last one decides
        kinds[those] = kind
    detection = pairs.detection
    wanted = np.where(is_loc[detection], own == of_own[detection], is_cls[detection] & (other == of_other[detection]))
    about = np.flatnonzero(wanted)
    return kinds, about[np.diff(detection[about], prepend=-1) > 0]  # the first of equal overlaps


def _in_crowd(pairs: Pairs, areas: Floats) -> Bools:
    """Return which detections, of so many pixels, lie in a crowd region of their class by half."""
    inside = np.where(pairs.same, pairs.overlap / np.maximum(areas, 1e-12)[pairs.detection], 0.0)
    return _largest(pairs, (inside,), len(areas))[0] >= FOREGROUND


def _largest(pairs: Pairs, values: tuple[Floats, ...], number: int) -> list[Floats]:
    """Return the largest of each of these values, none of them negative, of each detection's pairs; 0 where it has
    none."""
    starts = np.flatnonzero(np.diff(pairs.detection, prepend=-1))
    found = [np.zeros(number) for _ in values]
    for each, largest in zip(values, found, strict=True):
        if len(starts):
            largest[pairs.detection[starts]] = np.maximum.reduceat(each, starts)
    return found


def _areas(boxes: Floats) -> Floats:
    area: Floats = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return area
