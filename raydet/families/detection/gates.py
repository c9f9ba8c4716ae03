"""Gates: pure functions that drop rows of candidates, stored pseudo-boxes or targets. All thresholds are strict.

The order of gates matters: with a quality gate *before* NMS, a well scored but badly placed box cannot suppress its
better placed neighbour (IL-net, section 3.2).
"""

from __future__ import annotations

from typing import TypeVar

from raydet.records import Candidates, PseudoBoxes, Target
from raydet.vision.nms import nms_within

Boxes = TypeVar("Boxes", Candidates, PseudoBoxes, Target)


def by_score(boxes: Boxes, threshold: float) -> Boxes:
    """Keep the rows whose class confidence exceeds the threshold."""
    return boxes.where(boxes.scores > threshold)


def by_quality(boxes: Boxes, threshold: float) -> Boxes:
    """Keep the rows whose localisation quality exceeds the threshold (theta of IL-net)."""
    return boxes.where(boxes.quality > threshold)


def after_nms(boxes: Boxes, iou: float, top_k: int) -> Boxes:
    """Keep the `top_k` best rows that no better row of the same class overlaps by more than `iou`; best first."""
    kept = nms_within(boxes.boxes, boxes.scores, boxes.classes, iou)
    return boxes.where(kept[:top_k])
