"""Gates: pure functions that drop rows of candidates, stored pseudo-boxes or targets. All thresholds are strict.

The order of gates matters: with a quality gate *before* NMS, a well scored but badly placed box cannot suppress its
better placed neighbour (IL-net, section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from raydet.errors import ConfigError, DataError
from raydet.records import Candidates, PseudoBoxes, Target
from raydet.text import suggestion
from raydet.vision.nms import nms_within

Boxes = TypeVar("Boxes", Candidates, PseudoBoxes, Target)


class ScoreThresholds:
    """The class confidence that pseudo-boxes must exceed: one for all classes, and others for some."""

    key = "method.class_thresholds"

    def __init__(self, common: float, of_classes: Mapping[str, float]) -> None:
        """`of_classes`: by class name; what they number is known after `know_classes`."""
        self._common, self._named = common, dict(of_classes)
        self._limits: Tensor | None = None  # [C] float32
        self.lowest = min(common, *self._named.values()) if self._named else common
        self.highest = max(common, *self._named.values()) if self._named else common

    def know_classes(self, names: Sequence[str]) -> None:
        """Take the data's classes in the order of their numbers. Raises ConfigError where one is not there."""
        for name in self._named:
            if name not in names:
                raise ConfigError(
                    f"{self.key}: the data has no class {name!r}; {suggestion(name, names)}correct or remove it"
                )
        limits = [self._named.get(name, self._common) for name in names]
        self._limits = torch.tensor(limits, dtype=torch.float32)
        self.lowest, self.highest = min(limits), max(limits)

    @property
    def keys(self) -> str:
        """Return where the highest of them is set, for messages."""
        return f"the highest of method.score_threshold and {self.key}" if self._named else "method.score_threshold"

    def of(self, classes: Tensor) -> Tensor | float:
        """Return the threshold of each row `[N]` by its class, or the common one.

        Raises DataError before `know_classes` where classes have their own.
        """
        if not self._named:
            return self._common
        if self._limits is None:
            raise DataError(f"{self.key} are given, and which classes the data has is not known")
        return self._limits.to(classes.device)[classes]


def by_score(boxes: Boxes, threshold: float | Tensor) -> Boxes:
    """Keep the rows whose class confidence exceeds the threshold: one for all, or one for each row `[N]`."""
    return boxes.where(boxes.scores > threshold)


def by_quality(boxes: Boxes, threshold: float) -> Boxes:
    """Keep the rows whose localisation quality exceeds the threshold (theta of IL-net)."""
    return boxes.where(boxes.quality > threshold)


def after_nms(boxes: Boxes, iou: float, top_k: int) -> Boxes:
    """Keep the `top_k` best rows that no better row of the same class overlaps by more than `iou`; best first."""
    kept = nms_within(boxes.boxes, boxes.scores, boxes.classes, iou)
    return boxes.where(kept[:top_k])
