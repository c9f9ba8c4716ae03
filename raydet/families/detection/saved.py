"""A detector read back from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.method import DetectionMethod, detection_method
from raydet.train.saved import SavedModel, load_saved
from raydet.vision.detector import Detector


@dataclass(frozen=True, slots=True, eq=False)
class SavedDetector(SavedModel):
    """A `SavedModel` that is a detector."""

    config: DetectionConfig
    method: DetectionMethod
    model: Detector


def load_detector(path: Path, purpose: str, *, role: str | None = None) -> SavedDetector:
    """Load as `load_saved` does, where only a detector will do. Raises UserError that says what it was wanted for."""
    return as_detector(load_saved(path, role=role), purpose)


def as_detector(saved: SavedModel, purpose: str) -> SavedDetector:
    """Return the same model by its own types. Raises UserError where it is no detector."""
    method = detection_method(saved.config, purpose)
    assert isinstance(saved.config, DetectionConfig) and isinstance(saved.model, Detector)
    return SavedDetector(saved.config, method, saved.model, saved.class_names, saved.role, saved.checkpoint)
