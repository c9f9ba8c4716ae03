"""The teacher of a classifier: image ids in, logits out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raydet.config.classification import ClassificationConfig
from raydet.data.images.family import IMAGES
from raydet.data.images.loader import teacher_image
from raydet.methods import build_classification_method
from raydet.models.classifier import Classifier
from raydet.records import PseudoLogits, TeacherRef
from raydet.tasks.annotator import ModelAnnotator


class ClassAnnotator(ModelAnnotator[Classifier, Tensor, PseudoLogits]):
    """Labels plain or augmented views, as the method wants."""

    def __init__(self, config: ClassificationConfig, data_folder: str, device: str) -> None:
        data = IMAGES.open(data_folder)
        assert data.unlabeled is not None
        self._index, self._config = data.unlabeled, config
        method = build_classification_method(config)
        self._sees = method.teacher_sees
        super().__init__(config, method.build_model(len(data.class_names)), device)

    def see(self, image_id: str, version: int) -> Tensor:
        """Return the view `[3, S, S]` uint8."""
        return teacher_image(self._index, self._index.position(image_id), version, self._sees, self._config)

    def annotate(self, ids: Sequence[str], views: Sequence[Tensor], ref: TeacherRef) -> list[PseudoLogits]:
        """Return the teacher's logits."""
        logits = self.model(torch.stack(list(views)).to(self.device)).logits.cpu()
        return [PseudoLogits(image_id, ref, row) for image_id, row in zip(ids, logits, strict=True)]
