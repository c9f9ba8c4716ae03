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

from raydet.families.detection.tide_kinds import IGNORED, RIGHT, Bools, Ints, SaidBoxes, TrueBoxes, judge

KINDS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
NAMES = (*KINDS, "FalsePos", "FalseNeg")
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True)
class TideErrors:
    """How many errors of each kind there are, and what AP50 gains if they are mended, as a share; None: undefined."""

    gains: dict[str, float | None]  # by NAMES
    counts: dict[str, int]  # by KINDS


def tide_errors(truth: TrueBoxes, said: SaidBoxes, num_classes: int) -> TideErrors:
    """Return the errors of detections `said`, which need not be sorted, beside `truth`."""
    judged, real = judge(truth, said), ~truth.crowd
    missed = real & ~judged.found & ~judged.usable
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
    left = boxes - np.bincount(truth.classes[missed], minlength=num_classes)
    gains["Miss"] = _gain(_mean_ap(classes, right, left, boxes), base)
    gains["FalsePos"] = _gain(_mean_ap(classes[right], right[right], boxes, boxes), base)
    left = np.bincount(truth.classes[judged.found], minlength=num_classes)
    gains["FalseNeg"] = _gain(_mean_ap(classes, right, left, boxes), base)
    counts = {name: int((kinds == number).sum()) for number, name in enumerate(KINDS[:5])}
    return TideErrors(gains, {**counts, "Miss": int(missed.sum())})


def _mean_ap(classes: Ints, right: Bools, boxes: Ints, to_begin_with: Ints) -> float | None:
    """Return AP50 of detections, best score first, with so many `boxes` of each class to be found.

    Of the classes that had boxes to begin with; one without boxes and detections has no AP.
    """
    found = []
    # Those of a class stay in order of their scores; short integers are sorted five times as fast.
    order = np.argsort(classes.astype(np.uint16) if len(boxes) <= 2**16 else classes, kind="stable")
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
