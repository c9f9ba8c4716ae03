"""The methods: one paper, one file, one class."""

from __future__ import annotations

from typing import Any

from raydet.config.classification import ClassificationConfig
from raydet.config.run import RunConfig
from raydet.errors import UserError
from raydet.methods.base import Memory, Method
from raydet.methods.classification import ClassificationMethod
from raydet.methods.detection import DetectionMethod, Selection, Thresholds
from raydet.methods.il_net import IlNet
from raydet.methods.mean_teacher import MeanTeacher
from raydet.methods.pseudo_label import PseudoLabel
from raydet.methods.r2d2 import R2D2
from raydet.methods.supervised import Supervised
from raydet.methods.supervised_classifier import SupervisedClassifier
from raydet.methods.unbiased_teacher import UnbiasedTeacher

__all__ = [
    "METHODS",
    "ClassificationMethod",
    "DetectionMethod",
    "Memory",
    "Method",
    "Selection",
    "Thresholds",
    "build_classification_method",
    "build_detection_method",
    "build_method",
]

METHODS: dict[str, type[Method[Any, Any]]] = {
    "supervised": Supervised,
    "unbiased_teacher": UnbiasedTeacher,
    "il_net": IlNet,
    "supervised_classifier": SupervisedClassifier,
    "mean_teacher": MeanTeacher,
    "pseudo_label": PseudoLabel,
    "r2d2": R2D2,
}


def build_method(config: RunConfig) -> Method[Any, Any]:
    """Return the method that `config.method.name` names."""
    return METHODS[config.method.name](config)


def build_detection_method(config: RunConfig, purpose: str) -> DetectionMethod:
    """Do the same where only a detector will do. Raises UserError that says what it was wanted for."""
    method = build_method(config)
    if not isinstance(method, DetectionMethod):
        raise UserError(
            f"{purpose} is for detectors; method.name={config.method.name} trains a {config.trains}, for which there "
            f"are raydet evaluate, raydet report, and raydet export --out FILE.safetensors"
        )
    return method


def build_classification_method(config: ClassificationConfig) -> ClassificationMethod:
    """Do the same for a classifier's configuration."""
    method = build_method(config)
    assert isinstance(method, ClassificationMethod), type(method)
    return method
