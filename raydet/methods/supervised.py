"""Supervised Faster R-CNN: the baseline, and the burn-in that every teacher-student method starts with.

    L = L_rpn_cls + L_rpn_reg + L_roi_cls + L_roi_reg (+ L_iou)

Each labelled image enters twice, as strong and as weak view. After the burn-in an EMA of the student is kept and
evaluated, so that a teacher-student method is compared with an averaged model, not with a raw one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raydet.config.detection import DetectionConfig
from raydet.config.detection_methods import SupervisedConfig
from raydet.labels.schedule import LabelSchedule
from raydet.methods.detection import DetectionMethod, loss_terms
from raydet.models.detector import Detector
from raydet.models.images import ImageBatch
from raydet.records import LossTerm, StudentBatch


class Supervised(DetectionMethod):
    """Labelled images only."""

    unseen_by_burn_in = frozenset({"ema_keep_rate"})

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        assert isinstance(config.method, SupervisedConfig)
        self.config = config.method

    @property
    def loss_weights(self) -> dict[str, float]:
        """All 1, except that the IoU branch, where there is one, has its own weight."""
        weights = {f"sup/{name}": 1.0 for name in ("rpn_cls", "rpn_reg", "roi_cls", "roi_reg")}
        if self.config.iou_branch is not None:
            weights |= {"sup/iou": self.config.sup_iou_weight, "sup/iou_positive": 0.0}
        return weights

    def build_model(self, num_classes: int) -> Detector:
        """Return a detector, with IL-net's branch where the config asks for it."""
        branch, mu = self.config.iou_branch, self.config.iou_target_threshold
        return Detector(self.run.model, num_classes, iou_branch=branch, iou_target_threshold=mu)

    def schedule(self) -> LabelSchedule:
        """No step needs labels."""
        return LabelSchedule.none()

    def losses(
        self, student: Detector, batch: StudentBatch, images: ImageBatch, rngs: Sequence[torch.Generator]
    ) -> dict[str, LossTerm]:
        """Return the detector's losses on the labelled views."""
        losses = student.losses(images, batch.targets, rngs)
        return loss_terms(losses, slice(0, batch.num_labeled), "sup", with_iou=self.config.iou_branch is not None)
