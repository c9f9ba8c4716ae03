"""IL-net ("Improving Localization for Semi-Supervised Object Detection", arXiv 2206.10186).

Unbiased Teacher, plus box regression on pseudo-boxes, plus a classifier of box quality (the IoU branch):

    L_sup   = L_cls + L_reg + L_IoU                                               (Eq. 1)
    L_unsup = alpha * L_cls + beta * L_reg + gamma * L_IoU                        (Eq. 1)
    q = f(concat(x_sh, s[, d]));  L_IoU = FL(q, t)                                (Eq. 2)
    t = 1 if IoU(decoded box, ground truth) > mu else 0                           (Eq. 3)
    a foreground prediction survives if q of its best class > theta, before NMS   (section 3.2)

L_cls and L_reg are each the sum of the RPN's and the RoI head's loss. The branch lives in `models/iou_branch.py`.

| paper | code | value |
|---|---|---|
| mu | method.iou_target_threshold | 0.75 |
| theta | method.iou_filter_threshold | 0.4 |
| alpha | method.unsup_cls_weight | 4 |
| beta | method.unsup_reg_weight | 1 |
| gamma (Eq. 1) | method.unsup_iou_weight | 4 (published code; the text is silent) |
| gamma (focal) | method.iou_branch.focal_exponent | 1.5 |
| x_sh, s, d | method.iou_branch.inputs | x_sh and s: Table 5, row 4 |

Deviations: D-1 loss sums are divided by counts over all ranks, not per rank; D-2 no grouping by aspect ratio.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raydet.config.detection import DetectionConfig
from raydet.config.detection_methods import IlNetConfig
from raydet.gates import after_nms, by_quality, by_score
from raydet.labels.schedule import LabelSchedule
from raydet.methods.detection import MUTUAL_STAGE, DetectionMethod, Selection, Thresholds, loss_terms
from raydet.models.detector import Detector
from raydet.models.images import ImageBatch
from raydet.models.iou_branch import BACKGROUND
from raydet.records import Candidates, LossTerm, PseudoBoxes, StudentBatch


class IlNet(DetectionMethod):
    """Pseudo-boxes are gated by predicted quality and train classification, regression and the gate itself."""

    unseen_by_burn_in = MUTUAL_STAGE | {
        "unsup_reg_weight",
        "unsup_iou_weight",
        "iou_filter_enabled",
        "iou_filter_threshold",
    }

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        assert isinstance(config.method, IlNetConfig)
        self.config = config.method

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weights of Eq. 1."""
        config = self.config
        alpha, beta, gamma = config.unsup_cls_weight, config.unsup_reg_weight, config.unsup_iou_weight
        weights = {
            "sup/rpn_cls": 1.0,
            "sup/rpn_reg": 1.0,
            "sup/roi_cls": 1.0,
            "sup/roi_reg": 1.0,
            "unsup/rpn_cls": alpha,
            "unsup/rpn_reg": beta,
            "unsup/roi_cls": alpha,
            "unsup/roi_reg": beta,
        }
        if config.iou_branch_enabled:
            weights |= {"sup/iou": config.sup_iou_weight, "unsup/iou": gamma}
            weights |= {"sup/iou_positive": 0.0, "unsup/iou_positive": 0.0}
        return weights

    def build_model(self, num_classes: int) -> Detector:
        """Return a Faster R-CNN with the IoU branch (unless it is switched off)."""
        branch = self.config.iou_branch if self.config.iou_branch_enabled else None
        mu = self.config.iou_target_threshold
        return Detector(self.run.model, num_classes, iou_branch=branch, iou_target_threshold=mu)

    def schedule(self) -> LabelSchedule:
        """The newest teacher from the end of the burn-in on."""
        labels = self.run.labels
        return LabelSchedule.moving(
            self.config.burn_in_steps, publish_every=labels.publish_every, lookahead=labels.lookahead
        )

    def annotate(self, teacher: Detector, images: ImageBatch) -> list[Candidates]:
        """Return candidates BEFORE NMS: the gate acts there, and theta must stay free until the label is read."""
        labels, proposals = self.run.labels, self.config.teacher_proposals
        return teacher.candidates(images, proposals=proposals, score_floor=labels.score_floor, top_k=labels.top_k)

    def select(self, labels: PseudoBoxes) -> Selection:
        """Gate by quality, then class-wise NMS and best 100, then the score threshold."""
        model = self.run.model
        gated = by_quality(labels, self.config.iou_filter_threshold) if self._filters else labels
        distinct = after_nms(gated, model.test_nms, model.test_detections)
        kept = by_score(distinct, self.config.score_threshold)
        dropped = {
            "quality": len(labels) - len(gated),
            "nms": len(gated) - len(distinct),
            "score": len(distinct) - len(kept),
        }
        return Selection(
            kept,
            dropped,
            is_complete=labels.complete_above <= self.config.score_threshold,
            dropped_quality=float(labels.quality.double().sum() - gated.quality.double().sum()),
            background=int((gated.quality == BACKGROUND).sum()) if self._filters else None,
        )

    @property
    def thresholds(self) -> Thresholds:
        """Score and theta; theta only where the gate is on."""
        return Thresholds("method.score_threshold", "method.iou_filter_threshold" if self._filters else None)

    def gate(self, candidates: Candidates) -> Candidates:
        """Apply the quality gate at evaluation too, for student and teacher."""
        return by_quality(candidates, self.config.iou_filter_threshold) if self._filters else candidates

    def losses(
        self, student: Detector, batch: StudentBatch, images: ImageBatch, rngs: Sequence[torch.Generator]
    ) -> dict[str, LossTerm]:
        """Return the terms of Eq. 1 from one forward over all views."""
        losses = student.losses(images, batch.targets, rngs)
        labeled, unlabeled = slice(0, batch.num_labeled), slice(batch.num_labeled, None)
        with_iou = self.config.iou_branch_enabled
        return {
            **loss_terms(losses, labeled, "sup", with_iou=with_iou),
            **loss_terms(losses, unlabeled, "unsup", with_iou=with_iou),
        }

    @property
    def _filters(self) -> bool:
        return self.config.iou_branch_enabled and self.config.iou_filter_enabled
