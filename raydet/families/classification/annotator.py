"""The teacher of a classifier: image ids in, logits out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raydet.families.classification.data import PreparedImages
from raydet.families.classification.loader import teacher_image
from raydet.families.classification.method import ClassificationMethod
from raydet.labels.annotator import ModelAnnotator
from raydet.records import PseudoLogits, TeacherRef
from raydet.vision.classifier import Classifier
from raydet.vision.device import to_device
from raydet.vision.pretrained import architecture_only


class ClassAnnotator(ModelAnnotator[Classifier, Tensor, PseudoLogits]):
    """Labels plain or augmented views, as the method wants."""

    def __init__(self, method: ClassificationMethod, data: PreparedImages, device: str) -> None:
        assert data.unlabeled is not None
        self._index, self._config, self._sees = data.unlabeled, method.run, method.teacher_sees
        with architecture_only():  # a teacher takes the student's weights, on nodes where no file of others may lie
            model = method.build_model(len(data.class_names))
        super().__init__(method.run, model, device)

    def see(self, image_id: str, version: int) -> Tensor:
        """Return the view `[3, S, S]` uint8."""
        return teacher_image(self._index, self._index.position(image_id), version, self._sees, self._config)

    def annotate(self, ids: Sequence[str], views: Sequence[Tensor], ref: TeacherRef) -> list[PseudoLogits]:
        """Return the teacher's logits."""
        logits = self.model(to_device(torch.stack(list(views)), self.device)).logits.cpu()
        return [PseudoLogits(image_id, ref, row) for image_id, row in zip(ids, logits, strict=True)]
