"""Hard pseudo-labels (Lee, 2013, "Pseudo-Label: the simple and efficient semi-supervised learning method").

    L = CE(labelled) + w * CE(unlabelled, argmax of the prediction)

The network's prediction of the unaugmented image at the burn-in's end is taken for the truth, once, or anew every so
many steps. PL-D1: the paper labels anew at every step and raises w slowly; here labels stay fixed in between.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from raydet.contract import LossTerm
from raydet.families.classification.batch import LABELED, UNLABELED, ClassBatch
from raydet.families.classification.config import PseudoLabelConfig
from raydet.families.classification.method import ClassificationMethod, cross_entropy, nothing
from raydet.labels.schedule import LabelSchedule
from raydet.vision.device import to_device


class PseudoLabel(ClassificationMethod):
    """The student's own best class, as if it were the truth."""

    settings = PseudoLabelConfig
    config: PseudoLabelConfig
    unseen_by_burn_in = frozenset({"unsup_weight", "score_threshold", "reprediction_interval_steps"})

    @property
    def loss_weights(self) -> dict[str, float]:
        """Cross-entropies of both kinds of images."""
        return {"sup/ce": 1.0, "unsup/ce": self.config.unsup_weight}

    def schedule(self) -> LabelSchedule:
        """The student of the burn-in's end, and of every interval's end."""
        first, every = self.config.burn_in_steps, self.config.reprediction_interval_steps
        return LabelSchedule.stages(*range(first, self.run.length, every)) if every else LabelSchedule.stages(first)

    def terms(self, logits: Tensor, batch: ClassBatch) -> dict[str, LossTerm]:
        """Return both cross-entropies; labels below the threshold count as images, and teach nothing."""
        labeled, unlabeled = logits[: batch.num_labeled], logits[batch.num_labeled :]
        terms = {"sup/ce": cross_entropy(labeled, batch.classes, LABELED), "unsup/ce": nothing(logits, UNLABELED)}
        if batch.num_unlabeled:
            scores, classes = to_device(batch.pseudo_logits, logits.device).softmax(dim=-1).max(dim=-1)
            rows = F.cross_entropy(unlabeled, classes, reduction="none") * (scores > self.config.score_threshold)
            terms["unsup/ce"] = LossTerm(rows.sum(), torch.tensor(batch.num_unlabeled), UNLABELED)
        return terms
