"""Image classification."""

from __future__ import annotations

from raydet.tasks.classification.task import Classification

__all__ = ["Classification"]
