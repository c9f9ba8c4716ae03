"""The teacher at work: image ids in, pseudo-boxes in original pixels out.

The same class serves the training process (inline source) and the teacher actors (pool), so both give the same labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raydet.config.detection import DetectionConfig
from raydet.data.loader import TeacherViews
from raydet.data.prepare import open_prepared
from raydet.geometry import clip_boxes, is_usable
from raydet.methods import build_detection_method
from raydet.models.ema import load_weights
from raydet.models.images import collate
from raydet.records import Candidates, PseudoBoxes, TeacherRef, ViewedImage, Weights
from raydet.train.optim import autocast_dtype


class DetectorAnnotator:
    """Holds a teacher; labels images one forward of `labels.forward_images` at a time."""

    def __init__(
        self, config: DetectionConfig, data_folder: str, device: str, views: TeacherViews | None = None
    ) -> None:
        """`views`: those of the loader, where the student is trained in this very process."""
        data = open_prepared(data_folder)
        assert data.unlabeled is not None
        self._views = views or TeacherViews(data, config)
        self._index = data.unlabeled
        self._config = config
        self._method = build_detection_method(config, "labelling with boxes")
        self._device = torch.device(device)
        self._dtype = autocast_dtype(config.optim.precision, self._device)
        self._teacher = self._method.build_model(len(data.class_names)).to(self._device).eval()
        self._teacher.requires_grad_(False)
        self._ref: TeacherRef | None = None

    def load(self, ref: TeacherRef, weights: Weights) -> None:
        """Become the teacher of that version."""
        load_weights(self._teacher, weights)
        self._ref = ref

    @torch.no_grad()
    def label(self, image_ids: Sequence[str]) -> list[PseudoBoxes]:
        """Return one record per image id, in order. Raises DataError where an image cannot be read."""
        assert self._ref is not None, "label() before load()"
        size = self._config.labels.forward_images
        found: list[PseudoBoxes] = []
        for start in range(0, len(image_ids), size):
            views = [self._views.take(image_id, self._ref.version) for image_id in image_ids[start : start + size]]
            images = collate([view.pixels for view in views], self._device)
            with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None):
                said = self._method.annotate(self._teacher, images)
            found += [self._record(view, each) for view, each in zip(views, said, strict=True)]
        return found

    def _record(self, view: ViewedImage, said: Candidates) -> PseudoBoxes:
        assert self._ref is not None
        height, width = self._index.size_at(self._index.position(view.image_id))
        boxes = clip_boxes(view.view.to_original(said.boxes.float().cpu()), height, width)
        record = PseudoBoxes(
            view.image_id,
            self._ref,
            boxes,
            said.classes.cpu(),
            said.scores.float().cpu(),
            said.quality.float().cpu(),
            said.complete_above,
        )
        return record.where(is_usable(boxes, 0.0))
