"""A detector read back from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.method import DetectionMethod, detection_method
from raydet.train.saved import Saved, load_saved
from raydet.vision.detector import Detector

SavedDetector = Saved[DetectionConfig, DetectionMethod, Detector]


def load_detector(path: Path, purpose: str, *, role: str | None = None) -> SavedDetector:
    """Load as `load_saved` does, where only a detector will do. Raises UserError that says what it was wanted for."""
    saved = load_saved(path, role=role)
    detection_method(saved.config, purpose)  # raises where it is of another kind
    return cast(SavedDetector, saved)
