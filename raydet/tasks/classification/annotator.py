"""The teacher of a classifier at work: image ids in, logits out; the same in the training process and in the pool."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raydet.config.classification import ClassificationConfig
from raydet.data.images.loader import teacher_image
from raydet.data.images.prepare import open_images
from raydet.methods import ClassificationMethod, build_method
from raydet.models.ema import load_weights
from raydet.records import PseudoLogits, TeacherRef, Weights
from raydet.train.optim import autocast_dtype


class ClassAnnotator:
    """Holds a teacher in evaluation mode; labels images one forward of `labels.forward_images` at a time."""

    def __init__(self, config: ClassificationConfig, data_folder: str, device: str) -> None:
        data = open_images(data_folder)
        assert data.unlabeled is not None
        self._index = data.unlabeled
        self._config = config
        method = build_method(config)
        assert isinstance(method, ClassificationMethod)
        self._sees = method.teacher_sees
        self._device = torch.device(device)
        self._dtype = autocast_dtype(config.optim.precision, self._device)
        self._teacher = method.build_model(len(data.class_names)).to(self._device).eval().requires_grad_(False)
        self._ref: TeacherRef | None = None

    def load(self, ref: TeacherRef, weights: Weights) -> None:
        """Become the teacher of that version."""
        load_weights(self._teacher, weights)
        self._ref = ref

    @torch.no_grad()
    def label(self, image_ids: Sequence[str]) -> list[PseudoLogits]:
        """Return one record per image id, in order. Raises DataError where an image cannot be read."""
        assert self._ref is not None, "label() before load()"
        size, found = self._config.labels.forward_images, []
        for start in range(0, len(image_ids), size):
            ids = image_ids[start : start + size]
            rows = (self._index.position(image_id) for image_id in ids)
            views = [teacher_image(self._index, row, self._ref.version, self._sees, self._config) for row in rows]
            with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None):
                logits = self._teacher(torch.stack(views).to(self._device)).logits.cpu()
            found += [PseudoLogits(image_id, self._ref, row) for image_id, row in zip(ids, logits, strict=True)]
        return found
