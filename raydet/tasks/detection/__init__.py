"""Object detection."""

from __future__ import annotations

from raydet.tasks.detection.task import Detection

__all__ = ["Detection"]
