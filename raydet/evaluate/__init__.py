"""COCO average precision of detections, and the quality of pseudo-labels against hidden ground truth."""

from __future__ import annotations

from raydet.evaluate.coco import ClassAP, Detections, EngineName, EvalResult, coco_metrics
from raydet.evaluate.pseudo import LabelPair, PseudoLabelQuality, pseudo_label_quality

__all__ = [
    "ClassAP",
    "Detections",
    "EngineName",
    "EvalResult",
    "LabelPair",
    "PseudoLabelQuality",
    "coco_metrics",
    "pseudo_label_quality",
]
