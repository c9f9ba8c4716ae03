"""An oracle: the hidden truth as pseudo-labels. What it gains bounds what any method can gain from those images.

Everything else is a teacher-student method's: batches, views, losses, weights, the EMA that is evaluated.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, Literal

from raydet.config.base import Weight
from raydet.data.boxes.index import DatasetIndex
from raydet.families.detection import config as family
from raydet.families.detection.config import UnbiasedTeacherConfig
from raydet.families.detection.data import BOXES
from raydet.families.detection.method import Selection
from raydet.families.detection.methods.unbiased_teacher import UnbiasedTeacher
from raydet.records import PseudoBoxes
from raydet.train.rundir import RunFolder


class OracleConfig(UnbiasedTeacherConfig):
    """The hidden truth as pseudo-labels."""

    implementation: ClassVar[str] = "oracle:Oracle"
    name: Literal["oracle"] = "oracle"  # type: ignore[assignment]
    unsup_cls_weight: Weight = 1.0
    """Weight of the classification losses on unlabelled images; labelled ones have 1 too."""
    unsup_reg_weight: Weight = 1.0
    """Weight of the box losses on unlabelled images."""


class Oracle(UnbiasedTeacher):
    """Keeps nothing of what the teacher says."""

    settings = OracleConfig
    config: OracleConfig

    @property
    def loss_weights(self) -> dict[str, float]:
        """As for labelled images."""
        box = self.config.unsup_reg_weight
        return super().loss_weights | {"unsup/rpn_reg": box, "unsup/roi_reg": box}

    @cached_property
    def _hidden(self) -> DatasetIndex:
        hidden = BOXES.open_hidden(RunFolder(self.run.run.dir).data)
        assert isinstance(hidden, DatasetIndex), "the unlabelled images have no hidden boxes"
        return hidden

    def select(self, labels: PseudoBoxes) -> Selection:
        """Return the truth instead, with full confidence."""
        truth = self._hidden.target_at(self._hidden.position(labels.image_id))
        kept = PseudoBoxes(
            labels.image_id, labels.teacher, truth.boxes, truth.classes, truth.scores, truth.quality, 0.0
        )
        return Selection(kept, {"everything": len(labels)})


def register() -> None:
    """Let configurations name the oracle."""
    if OracleConfig not in family.METHODS:
        family.METHODS.append(OracleConfig)
