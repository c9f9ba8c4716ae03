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

from raydet.families.detection.box_pairs import Bools, Ints, Judgeable, SaidBoxes, TrueBoxes, sorted_by
from raydet.families.detection.tide_kinds import CLS, IGNORED, RIGHT, Judged, Kinds, judge

KINDS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
NAMES = (*KINDS, "FalsePos", "FalseNeg")
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True)
class TideErrors:
    """How many errors of each kind there are, and what AP50 gains if they are mended, as a share; None: undefined."""

    gains: dict[str, float | None]  # by NAMES
    counts: dict[str, int]  # by KINDS


@dataclass(frozen=True, slots=True, eq=False)
class _Ranking:
    """Detections by class, those of a class best score first."""

    ends: Ints  # [K + 1] where each class begins, and the last one ends
    kinds: Kinds  # [N]
    can_be_mended: Bools  # [N]


def tide_errors(truth: TrueBoxes, said: SaidBoxes, judgeable: Judgeable, num_classes: int) -> TideErrors:
    """Return the errors of detections `said` beside `truth`."""
    judged, real = judge(truth, said, judgeable), ~truth.crowd
    missed = real & ~judged.found & ~judged.usable
    boxes = np.bincount(truth.classes[real], minlength=num_classes)
    as_said = _ranking(judged, said.classes, judgeable.by_class, num_classes)
    right, counted = as_said.kinds == RIGHT, as_said.kinds != IGNORED
    base = _mean_ap(as_said.ends, right, counted, boxes, boxes)
    gains: dict[str, float | None] = {}
    for number, name in enumerate(KINDS[:5]):
        of = as_said  # but for CLS all are mended within their class
        if number == CLS:
            classes = np.where((judged.kinds == CLS) & (judged.mended >= 0), judged.mended, said.classes)
            order = judgeable.by_score[sorted_by(classes[judgeable.by_score])]
            of = _ranking(judged, classes, order, num_classes)
        own = of.kinds == number
        fixed = own & of.can_be_mended
        gains[name] = _gain(
            _mean_ap(of.ends, fixed | (of.kinds == RIGHT), fixed | ((of.kinds != IGNORED) & ~own), boxes, boxes), base
        )
    left = boxes - np.bincount(truth.classes[missed], minlength=num_classes)
    gains["Miss"] = _gain(_mean_ap(as_said.ends, right, counted, left, boxes), base)
    gains["FalsePos"] = _gain(_mean_ap(as_said.ends, right, right, boxes, boxes), base)
    left = np.bincount(truth.classes[judged.found], minlength=num_classes)
    gains["FalseNeg"] = _gain(_mean_ap(as_said.ends, right, counted, left, boxes), base)
    counts = {name: int((judged.kinds == number).sum()) for number, name in enumerate(KINDS[:5])}
    return TideErrors(gains, {**counts, "Miss": int(missed.sum())})


def _ranking(judged: Judged, classes: Ints, order: Ints, num_classes: int) -> _Ranking:
    ends = np.append(0, np.cumsum(np.bincount(classes[order], minlength=num_classes)))
    return _Ranking(ends, judged.kinds[order], (judged.mended >= 0)[order])


def _mean_ap(ends: Ints, right: Bools, kept: Bools, boxes: Ints, to_begin_with: Ints) -> float | None:
    """Return AP50 of the detections that are `kept`, those that are `right` among them, with so many `boxes` of each
    class to be found; `ends`: where each class begins, and the last one ends.

    Of the classes that had boxes to begin with; one without boxes and detections has no AP.
    """
    found = []
    hits = np.flatnonzero(right)
    number = np.zeros(len(kept) + 1, dtype=np.int64)
    np.cumsum(kept, out=number[1:])
    first, before = np.searchsorted(hits, ends), number[ends]
    for label in np.flatnonzero(to_begin_with):
        if boxes[label] or before[label + 1] > before[label]:
            ranks = number[hits[first[label] : first[label + 1]] + 1] - before[label]
            found.append(_ap(ranks, int(boxes[label])))
    return float(np.mean(found)) if found else None


def _ap(ranks: Ints, boxes: int) -> float:
    """Return the mean of the precision at 101 recalls, as COCO interpolates it; `ranks`: of what is right, from 1."""
    if not boxes or not len(ranks):
        return 0.0
    number = np.arange(1, len(ranks) + 1)
    precision = np.maximum.accumulate((number / ranks)[::-1])[::-1]
    at = np.searchsorted(number / boxes, RECALLS, side="left")
    return float(np.append(precision, 0.0)[at].mean())


def _gain(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before
