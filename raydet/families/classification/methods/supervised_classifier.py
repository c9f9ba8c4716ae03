"""The supervised classifier: the baseline of the classification methods.

    L = cross-entropy on labelled images

After the burn-in an EMA of the student is kept and evaluated, so that Mean Teacher is compared with an averaged model.
"""

from __future__ import annotations

from torch import Tensor

from raydet.contract import LossTerm
from raydet.families.classification.batch import LABELED, ClassBatch
from raydet.families.classification.method import ClassificationMethod, cross_entropy
from raydet.labels.schedule import LabelSchedule


class SupervisedClassifier(ClassificationMethod):
    """Labelled images only."""

    unseen_by_burn_in = frozenset({"ema_keep_rate"})

    @property
    def loss_weights(self) -> dict[str, float]:
        """One term."""
        return {"sup/ce": 1.0}

    def schedule(self) -> LabelSchedule:
        """No step needs labels."""
        return LabelSchedule.none()

    def terms(self, logits: Tensor, batch: ClassBatch) -> dict[str, LossTerm]:
        """Return the cross-entropy."""
        return {"sup/ce": cross_entropy(logits, batch.classes, LABELED)}
