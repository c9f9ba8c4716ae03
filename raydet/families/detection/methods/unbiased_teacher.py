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
Deviations, numbered as IL-net's (`docs/methods/il_net.md`): ILNET-D1 loss sums are divided by counts over all ranks,
not per rank; ILNET-D2 no grouping by aspect ratio; ILNET-D20 on Cascade R-CNN every head has the RoI losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from raydet.contract import Alarm, LossTerm
from raydet.families.detection.batch import LABELED, UNLABELED, StudentBatch
from raydet.families.detection.config import DetectionConfig, UnbiasedTeacherConfig
from raydet.families.detection.gates import ScoreThresholds, after_nms, by_score
from raydet.families.detection.method import (
    MUTUAL_STAGE,
    UNLIMITED,
    OnePass,
    Selection,
    Thresholds,
    no_survivors,
)
from raydet.families.detection.passes import TrainPass, for_all_heads, loss_terms
from raydet.labels.schedule import LabelSchedule
from raydet.records import Candidates, PseudoBoxes
from raydet.vision.images import ImageBatch
from raydet.window import Window


class UnbiasedTeacher(OnePass):
    """Pseudo-boxes train the classifiers only."""

    settings = UnbiasedTeacherConfig
    config: UnbiasedTeacherConfig
    unseen_by_burn_in = MUTUAL_STAGE

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.score = ScoreThresholds(self.config.score_threshold, self.config.class_thresholds)

    def know_classes(self, names: Sequence[str]) -> None:
        """Thresholds of single classes are given by name."""
        self.score.know_classes(names)

    @property
    def loss_weights(self) -> dict[str, float]:
        """Supervised terms 1; unsupervised classification alpha, unsupervised regression 0."""
        alpha = self.config.unsup_cls_weight
        weights = {
            "sup/rpn_cls": 1.0,
            "sup/rpn_reg": 1.0,
            "sup/roi_cls": 1.0,
            "sup/roi_reg": 1.0,
            "unsup/rpn_cls": alpha,
            "unsup/rpn_reg": 0.0,  # computed and logged, never trained on
            "unsup/roi_cls": alpha,
            "unsup/roi_reg": 0.0,
        }
        return for_all_heads(weights, self.run.model)

    def schedule(self) -> LabelSchedule:
        """The newest teacher from the end of the burn-in on."""
        return self.moving_teacher()

    def annotate(self, teacher: Any, images: ImageBatch, rngs: Sequence[torch.Generator]) -> list[Candidates]:
        """Return the teacher's detections. A score threshold commutes with NMS and top-k, so they are stored after."""
        model, labels = self.run.model, self.run.labels
        found = teacher.candidates(
            images, proposals=self.config.teacher_proposals, score_floor=labels.score_floor, top_k=UNLIMITED
        )
        return [after_nms(each, model.test_nms, model.test_detections) for each in found]

    def select(self, labels: PseudoBoxes) -> Selection:
        """Keep boxes whose class confidence exceeds the threshold."""
        kept = by_score(labels, self.score.of(labels.classes))
        is_complete = labels.complete_above <= self.score.lowest
        return Selection(kept, {"score": len(labels) - len(kept)}, is_complete)

    @property
    def thresholds(self) -> Thresholds:
        """The class confidence alone."""
        return Thresholds("method.score_threshold", by_class=ScoreThresholds.key)

    def terms(self, student: Any, batch: StudentBatch, found: TrainPass) -> dict[str, LossTerm]:
        """Return supervised and unsupervised terms."""
        return {**loss_terms(found, batch, LABELED, "sup"), **loss_terms(found, batch, UNLABELED, "unsup")}

    def explain_barren(self, window: Window) -> Alarm | None:
        """Say why no pseudo-box survives the threshold."""
        steps = self.config.alarm_after_steps
        cause = "candidates score high enough, but every one is dropped"
        return no_survivors(window, self.score.highest, steps, otherwise=cause, key=self.score.keys)
