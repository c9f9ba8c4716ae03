"""The teacher at work: image ids in, pseudo-labels out.

The same class serves the training process (inline source) and the teacher actors (pool), so both give the same labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import nn

from raydet.arithmetic import Arithmetic
from raydet.config.run import RunConfig
from raydet.precision import autocast_dtype, settled_dtype
from raydet.records import PseudoLabel, TeacherRef, Weights
from raydet.vision.weights import load_weights

Model = TypeVar("Model", bound=nn.Module)
View = TypeVar("View")
Label = TypeVar("Label", bound=PseudoLabel)

ON_A_GPU = 8  # images per forward: one alone leaves a large GPU idle most of the time (decision 009)


class ModelAnnotator(ABC, Generic[Model, View, Label]):
    """Holds a teacher in evaluation mode; labels images one forward of `labels.forward_images` at a time."""

    def __init__(self, config: RunConfig, model: Model, device: str) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval().requires_grad_(False)
        usual = ON_A_GPU if self.device.type == "cuda" else 1
        self._images_per_forward = config.labels.forward_images or usual
        self._precision = config.optim.precision
        self._dtype = autocast_dtype(self._precision, self.device)
        self._ref: TeacherRef | None = None

    @abstractmethod
    def see(self, image_id: str, version: int) -> View:
        """Return an image as the teacher of `version` sees it. Raises DataError where it cannot be read."""

    @abstractmethod
    def annotate(self, ids: Sequence[str], views: Sequence[View], ref: TeacherRef) -> Sequence[Label]:
        """Return one label per view, from one forward of `model`; called under autocast, without gradients."""

    def load(self, ref: TeacherRef, weights: Weights, begun: Arithmetic | None = None) -> None:
        """Become the teacher of that version, of a run that has begun to compute so."""
        load_weights(self.model, weights)
        if begun is not None:
            self._dtype = settled_dtype(self._precision, self.device, begun)
        self._ref = ref

    @torch.inference_mode()
    def label(self, image_ids: Sequence[str]) -> list[Label]:
        """Return one label per image id, in order. Raises DataError where an image cannot be read."""
        assert self._ref is not None, "label() before load()"
        found: list[Label] = []
        for start in range(0, len(image_ids), self._images_per_forward):
            ids = image_ids[start : start + self._images_per_forward]
            views = [self.see(image_id, self._ref.version) for image_id in ids]
            with torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype is not None):
                found += self.annotate(ids, views, self._ref)
        return found
