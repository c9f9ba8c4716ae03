"""IL-net ("Improving Localization for Semi-Supervised Object Detection", arXiv 2206.10186).

Unbiased Teacher, plus box regression on pseudo-boxes, plus a classifier of box quality (the IoU branch):

    L_sup   = L_cls + L_reg + L_IoU                                               (Eq. 1)
    L_unsup = alpha * L_cls + beta * L_reg + gamma * L_IoU                        (Eq. 1)
    q = f(concat(x_sh, s[, d]));  L_IoU = FL(q, t)                                (Eq. 2)
    t = 1 if IoU(decoded box, ground truth) > mu else 0                           (Eq. 3)
    a foreground prediction survives if q of its best class > theta, before NMS   (section 3.2)

L_cls and L_reg are each the sum of the RPN's and the RoI head's loss. The branch: `families/detection/iou_branch.py`.

| paper | code | value |
|---|---|---|
| mu | method.iou_target_threshold | 0.75 |
| theta | method.iou_filter_threshold | 0.4 |
| alpha | method.unsup_cls_weight | 4 |
| beta | method.unsup_reg_weight | 1 |
| gamma (Eq. 1) | method.unsup_iou_weight | 4 (published code; the text is silent) |
| gamma (focal) | method.iou_branch.focal_exponent | 1.5 |
| x_sh, s, d | method.iou_branch.inputs | x_sh and s: Table 5, row 4 |

Deviations: ILNET-D1 loss sums are divided by counts over all ranks, not per rank; ILNET-D2 no grouping by aspect
ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from raydet.contract import Alarm, LossTerm
from raydet.families.detection.batch import LABELED, UNLABELED, StudentBatch
from raydet.families.detection.config import DetectionConfig, IlNetConfig
from raydet.families.detection.gates import ScoreThresholds, after_nms, by_quality, by_score
from raydet.families.detection.iou_branch import BACKGROUND, IoUDetector, iou_pass, iou_terms
from raydet.families.detection.method import MUTUAL_STAGE, OnePass, Selection, Thresholds, no_survivors
from raydet.families.detection.passes import TrainPass, for_all_heads, loss_terms
from raydet.labels.schedule import LabelSchedule
from raydet.records import Candidates, PseudoBoxes
from raydet.vision.detector import Detector
from raydet.vision.images import ImageBatch
from raydet.window import Window


class IlNet(OnePass):
    """Pseudo-boxes are gated by predicted quality and train classification, regression and the gate itself."""

    settings = IlNetConfig
    config: IlNetConfig
    unseen_by_burn_in = MUTUAL_STAGE | {
        "unsup_reg_weight",
        "unsup_iou_weight",
        "iou_filter_enabled",
        "iou_filter_threshold",
    }

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.score = ScoreThresholds(self.config.score_threshold, self.config.class_thresholds)

    def know_classes(self, names: Sequence[str]) -> None:
        """Thresholds of single classes are given by name."""
        self.score.know_classes(names)

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
        return for_all_heads(weights, self.run.model)

    def build_model(self, num_classes: int) -> Detector:
        """Return a Faster R-CNN with the IoU branch (unless it is switched off)."""
        config = self.config
        if not config.iou_branch_enabled:
            return super().build_model(num_classes)
        mu = config.iou_target_threshold
        return IoUDetector(self.run.model, num_classes, branch=config.iou_branch, target_threshold=mu)

    def schedule(self) -> LabelSchedule:
        """The newest teacher from the end of the burn-in on."""
        return self.moving_teacher()

    def annotate(self, teacher: Any, images: ImageBatch, rngs: Sequence[torch.Generator]) -> list[Candidates]:
        """Return candidates BEFORE NMS: the gate acts there, and theta must stay free until the label is read."""
        labels, proposals = self.run.labels, self.config.teacher_proposals
        found: list[Candidates] = teacher.candidates(
            images, proposals=proposals, score_floor=labels.score_floor, top_k=labels.top_k
        )
        return found

    def select(self, labels: PseudoBoxes) -> Selection:
        """Gate by quality, then class-wise NMS and best 100, then the score threshold."""
        model = self.run.model
        gated = by_quality(labels, self.config.iou_filter_threshold) if self._filters else labels
        distinct = after_nms(gated, model.test_nms, model.test_detections)
        kept = by_score(distinct, self.score.of(distinct.classes))
        dropped = {
            "quality": len(labels) - len(gated),
            "nms": len(gated) - len(distinct),
            "score": len(distinct) - len(kept),
        }
        return Selection(
            kept,
            dropped,
            is_complete=labels.complete_above <= self.score.lowest,
            dropped_quality=float(labels.quality.double().sum() - gated.quality.double().sum()),
            background=int((gated.quality == BACKGROUND).sum()) if self._filters else None,
        )

    @property
    def thresholds(self) -> Thresholds:
        """Score and theta; theta only where the gate is on."""
        quality = "method.iou_filter_threshold" if self._filters else None
        return Thresholds("method.score_threshold", quality, by_class=ScoreThresholds.key)

    def gate(self, candidates: Candidates) -> Candidates:
        """Apply the quality gate at evaluation too, for student and teacher."""
        return by_quality(candidates, self.config.iou_filter_threshold) if self._filters else candidates

    def terms(self, student: Any, batch: StudentBatch, found: TrainPass) -> dict[str, LossTerm]:
        """Return the terms of Eq. 1."""
        terms = {**loss_terms(found, batch, LABELED, "sup"), **loss_terms(found, batch, UNLABELED, "unsup")}
        if self.config.iou_branch_enabled:
            judged = iou_pass(student, found.roi, found.boxes)
            terms |= {**iou_terms(judged, batch, LABELED, "sup"), **iou_terms(judged, batch, UNLABELED, "unsup")}
        return terms

    def explain_barren(self, window: Window) -> Alarm | None:
        """Say why no pseudo-box survives the gate and the threshold."""
        steps = self.config.alarm_after_steps
        cause = (
            "candidates score high enough, but the quality gate drops them all: "
            "lower method.iou_filter_threshold (theta) or lengthen the burn-in"
        )
        return no_survivors(window, self.score.highest, steps, otherwise=cause, key=self.score.keys)

    def label_bytes(self, num_classes: int) -> int:
        """Return what benchmarks/store.md measured: candidates are stored before NMS."""
        return 8_000

    @property
    def _filters(self) -> bool:
        return self.config.iou_branch_enabled and self.config.iou_filter_enabled
