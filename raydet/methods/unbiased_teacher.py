"""Unbiased Teacher (Liu et al., ICLR 2021, "Unbiased Teacher for Semi-Supervised Object Detection").

Burn-in on labelled images; then the teacher (EMA of the student) labels the weak view of each unlabelled image and the
student learns from the strong view:

    L      = L_sup + alpha * L_unsup                                              (their Eq. 1, 5)
    L_sup  = rpn_cls + rpn_reg + roi_cls + roi_reg      on labelled images
    L_unsup = rpn_cls + roi_cls                         on pseudo-boxes: no regression
    teacher <- keep * teacher + (1 - keep) * student                              (their Eq. 6)

| paper | code |
|---|---|
| delta = 0.7 | method.score_threshold |
| lambda_u = alpha = 4 | method.unsup_cls_weight |
| alpha = 0.9996 (EMA) | method.ema_keep_rate |

The teacher's RPN proposals are thresholded in the published code and then never used; here they are not.
Deviations: D-1 loss sums are divided by counts over all ranks, not per rank; D-2 no grouping by aspect ratio.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raydet.config.detection import DetectionConfig
from raydet.config.detection_methods import UnbiasedTeacherConfig
from raydet.gates import after_nms, by_score
from raydet.labels.schedule import LabelSchedule
from raydet.methods.detection import MUTUAL_STAGE, UNLIMITED, DetectionMethod, Selection, Thresholds, loss_terms
from raydet.models.detector import Detector
from raydet.models.images import ImageBatch
from raydet.records import Candidates, LossTerm, PseudoBoxes, StudentBatch


class UnbiasedTeacher(DetectionMethod):
    """Pseudo-boxes train the classifiers only."""

    unseen_by_burn_in = MUTUAL_STAGE

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        assert isinstance(config.method, UnbiasedTeacherConfig)
        self.config = config.method

    @property
    def loss_weights(self) -> dict[str, float]:
        """Supervised terms 1; unsupervised classification alpha, unsupervised regression 0."""
        alpha = self.config.unsup_cls_weight
        return {
            "sup/rpn_cls": 1.0,
            "sup/rpn_reg": 1.0,
            "sup/roi_cls": 1.0,
            "sup/roi_reg": 1.0,
            "unsup/rpn_cls": alpha,
            "unsup/rpn_reg": 0.0,  # computed and logged, never trained on
            "unsup/roi_cls": alpha,
            "unsup/roi_reg": 0.0,
        }

    def build_model(self, num_classes: int) -> Detector:
        """Return a plain Faster R-CNN."""
        return Detector(self.run.model, num_classes)

    def schedule(self) -> LabelSchedule:
        """The newest teacher from the end of the burn-in on."""
        labels = self.run.labels
        return LabelSchedule.moving(
            self.config.burn_in_steps, publish_every=labels.publish_every, lookahead=labels.lookahead
        )

    def annotate(self, teacher: Detector, images: ImageBatch) -> list[Candidates]:
        """Return the teacher's detections. A score threshold commutes with NMS and top-k, so they are stored after."""
        model, labels = self.run.model, self.run.labels
        found = teacher.candidates(
            images, proposals=self.config.teacher_proposals, score_floor=labels.score_floor, top_k=UNLIMITED
        )
        return [after_nms(each, model.test_nms, model.test_detections) for each in found]

    def select(self, labels: PseudoBoxes) -> Selection:
        """Keep boxes whose class confidence exceeds the threshold."""
        kept = by_score(labels, self.config.score_threshold)
        is_complete = labels.complete_above <= self.config.score_threshold
        return Selection(kept, {"score": len(labels) - len(kept)}, is_complete)

    @property
    def thresholds(self) -> Thresholds:
        """The class confidence alone."""
        return Thresholds("method.score_threshold")

    def losses(
        self, student: Detector, batch: StudentBatch, images: ImageBatch, rngs: Sequence[torch.Generator]
    ) -> dict[str, LossTerm]:
        """Return supervised and unsupervised terms from one forward over all views."""
        losses = student.losses(images, batch.targets, rngs)
        labeled, unlabeled = slice(0, batch.num_labeled), slice(batch.num_labeled, None)
        return {
            **loss_terms(losses, labeled, "sup", with_iou=False),
            **loss_terms(losses, unlabeled, "unsup", with_iou=False),
        }
