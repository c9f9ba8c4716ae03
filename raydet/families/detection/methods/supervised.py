"""Supervised Faster R-CNN: the baseline, and the burn-in that every teacher-student method starts with.

    L = L_rpn_cls + L_rpn_reg + L_roi_cls + L_roi_reg (+ L_mask) (+ L_iou)

Each labelled image enters twice, as strong and as weak view. After the burn-in an EMA of the student is kept and
evaluated, so that a teacher-student method is compared with an averaged model, not with a raw one.
"""

from __future__ import annotations

from typing import Any

from raydet.contract import LossTerm
from raydet.families.detection.batch import LABELED, StudentBatch
from raydet.families.detection.config import SupervisedConfig
from raydet.families.detection.iou_branch import IoUDetector, iou_pass, iou_terms
from raydet.families.detection.method import OnePass
from raydet.families.detection.passes import TrainPass, for_all_heads, loss_terms
from raydet.labels.schedule import LabelSchedule
from raydet.vision.detector import Detector


class Supervised(OnePass):
    """Labelled images only."""

    settings = SupervisedConfig
    config: SupervisedConfig
    unseen_by_burn_in = frozenset({"ema_keep_rate"})

    @property
    def loss_weights(self) -> dict[str, float]:
        """All 1, except that the IoU branch, where there is one, has its own weight."""
        weights = {f"sup/{name}": 1.0 for name in ("rpn_cls", "rpn_reg", "roi_cls", "roi_reg")}
        if self.run.model.detector == "mask_rcnn":
            weights["sup/mask"] = 1.0
        if self.config.iou_branch is not None:
            weights |= {"sup/iou": self.config.sup_iou_weight, "sup/iou_positive": 0.0}
        return for_all_heads(weights, self.run.model)

    def build_model(self, num_classes: int) -> Detector:
        """Return a detector, with IL-net's branch where the config asks for it."""
        branch, mu = self.config.iou_branch, self.config.iou_target_threshold
        if branch is None:
            return super().build_model(num_classes)
        return IoUDetector(self.run.model, num_classes, branch=branch, target_threshold=mu)

    def schedule(self) -> LabelSchedule:
        """No step needs labels."""
        return LabelSchedule.none()

    def terms(self, student: Any, batch: StudentBatch, found: TrainPass) -> dict[str, LossTerm]:
        """Return the detector's losses on the labelled views."""
        terms = loss_terms(found, batch, LABELED, "sup")
        if self.config.iou_branch is not None:
            terms |= iou_terms(iou_pass(student, found.roi, found.boxes), batch, LABELED, "sup")
        return terms
