"""STAC (Sohn et al., 2020, "A Simple Semi-Supervised Learning Framework for Object Detection", arXiv 2005.04757).

A detector is trained on labelled images, then frozen; it labels the unlabelled images once, and training goes on with
those of its boxes that it is sure of:

    L = L_sup + lambda_u * L_unsup            all four losses of the detector in both                       (Eq. 3, 4)
    a pseudo-box counts if its confidence exceeds tau                                                    (section 3.2)

| paper | code | value |
|---|---|---|
| tau | method.confidence_threshold | 0.9 |
| lambda_u | method.unsup_weight | 2 |

Deviation: the paper trains the second network from scratch; here the student goes on from the teacher's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch

from raydet.config.base import Fraction, Weight
from raydet.config.method import MethodSection
from raydet.contract import Alarm, LossTerm
from raydet.families.detection.batch import LABELED, UNLABELED, StudentBatch
from raydet.families.detection.gates import after_nms, by_score
from raydet.families.detection.method import UNLIMITED, OnePass, Selection, Thresholds
from raydet.families.detection.passes import TrainPass, loss_terms
from raydet.labels.schedule import LabelSchedule
from raydet.records import Candidates, PseudoBoxes
from raydet.vision.images import ImageBatch
from raydet.window import Window


class StacConfig(MethodSection):
    """STAC: a frozen teacher, one threshold."""

    implementation: ClassVar[str] = "tests.seventh_method.stac:Stac"
    name: Literal["stac"] = "stac"
    confidence_threshold: Fraction = 0.9
    """Class confidence a pseudo-box must exceed, strictly (tau)."""
    unsup_weight: Weight = 2.0
    """Weight of all losses on pseudo-boxes (lambda_u)."""


class Stac(OnePass):
    """The burn-in's last student labels every unlabelled image once."""

    settings = StacConfig
    config: StacConfig
    unseen_by_burn_in = frozenset({"confidence_threshold", "unsup_weight"})

    @property
    def loss_weights(self) -> dict[str, float]:
        """Eq. 3."""
        names = ("rpn_cls", "rpn_reg", "roi_cls", "roi_reg")
        unsupervised = {f"unsup/{name}": self.config.unsup_weight for name in names}
        return {f"sup/{name}": 1.0 for name in names} | unsupervised

    def schedule(self) -> LabelSchedule:
        """One teacher for good."""
        return LabelSchedule.stages(self.config.burn_in_steps)

    def annotate(self, teacher: Any, images: ImageBatch, rngs: Sequence[torch.Generator]) -> list[Candidates]:
        """Return the teacher's detections."""
        model, floor = self.run.model, self.run.labels.score_floor
        found = teacher.candidates(images, proposals="test", score_floor=floor, top_k=UNLIMITED)
        return [after_nms(each, model.test_nms, model.test_detections) for each in found]

    def select(self, labels: PseudoBoxes) -> Selection:
        """Keep what the teacher is sure of."""
        kept = by_score(labels, self.config.confidence_threshold)
        is_complete = labels.complete_above <= self.config.confidence_threshold
        return Selection(kept, {"confidence": len(labels) - len(kept)}, is_complete)

    @property
    def thresholds(self) -> Thresholds:
        """Its only one."""
        return Thresholds("method.confidence_threshold")

    def terms(self, student: Any, batch: StudentBatch, found: TrainPass) -> dict[str, LossTerm]:
        """Return the four losses of both kinds of images."""
        return {**loss_terms(found, batch, LABELED, "sup"), **loss_terms(found, batch, UNLABELED, "unsup")}

    def explain_barren(self, window: Window) -> Alarm | None:
        """Say that the frozen teacher is never sure: waiting does not help."""
        if not window.sums["images"] or window.sums["kept"]:
            return None
        tau, best = self.config.confidence_threshold, window.highest["best_score"]
        message = f"the frozen teacher's best confidence is {best:.2f}, method.confidence_threshold is {tau}"
        return Alarm("frozen_teacher_unsure", message, after_steps=2)
