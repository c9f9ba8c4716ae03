"""Mean Teacher (Tarvainen and Valpola, NIPS 2017, "Mean teachers are better role models").

    L = CE(labelled) + w(t) * mean over classes of (softmax(student) - softmax(teacher))^2       (their J, section 2)
        or, on ImageNet, w(t) * KL(softmax(teacher) || softmax(student))
    teacher <- keep * teacher + (1 - keep) * student
    w(t) = w * exp(-5 * (1 - t)^2) while t = (steps since the teacher appeared) / ramp_up_steps < 1, then w

Teacher and student see two augmentations of an image, drawn apart from each other.

| paper | code |
|---|---|
| consistency cost coefficient | method.consistency_weight |
| consistency cost function | method.consistency_loss |
| EMA decay alpha | method.ema_keep_rate |

Each loss is a mean over its own images. The release divides both by all images of the batch: presets say the factor.

MT-D1: the consistency is asked of unlabelled images only (theirs: of all). MT-D2: the teacher is in evaluation mode: no
dropout, noise or random gates, and the averages of running statistics (theirs: in training mode, parameters averaged).
MT-D3: its EMA rate does not change while ramping up. MT-D4: one head gives both losses' logits (theirs: two, tied
together). MT-D5: presets lack what raydet has no setting for: rotation and colours of ImageNet's views, a warm-up that
starts above zero, Adam's first beta that falls to 0.5 at the end.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raydet.contract import LossTerm
from raydet.families.classification.batch import LABELED, UNLABELED, ClassBatch
from raydet.families.classification.config import ConsistencyLoss, MeanTeacherConfig
from raydet.families.classification.method import ClassificationMethod, cross_entropy, nothing
from raydet.labels.schedule import LabelSchedule
from raydet.vision.device import to_device


class MeanTeacher(ClassificationMethod):
    """The student agrees with an average of itself."""

    settings = MeanTeacherConfig
    config: MeanTeacherConfig
    unseen_by_burn_in = frozenset({"ema_keep_rate", "consistency_loss", "consistency_weight", "ramp_up_steps"})
    teacher_sees = "augmented"

    @property
    def loss_weights(self) -> dict[str, float]:
        """The ramp-up is part of the term itself."""
        return {"sup/ce": 1.0, "unsup/consistency": self.config.consistency_weight}

    def schedule(self) -> LabelSchedule:
        """The newest teacher from the end of the burn-in on."""
        labels = self.run.labels
        return LabelSchedule.moving(
            self.config.burn_in_steps, publish_every=labels.publish_every, lookahead=labels.lookahead
        )

    def terms(self, logits: Tensor, batch: ClassBatch) -> dict[str, LossTerm]:
        """Return cross-entropy and consistency."""
        labeled, unlabeled = logits[: batch.num_labeled], logits[batch.num_labeled :]
        terms = {
            "sup/ce": cross_entropy(labeled, batch.classes, LABELED),
            "unsup/consistency": nothing(logits, UNLABELED),
        }
        if batch.num_unlabeled:
            teacher = to_device(batch.pseudo_logits, logits.device)
            apart = consistency(unlabeled, teacher, self.config.consistency_loss)
            total = self.ramp_up(batch.step) * apart.sum()
            terms["unsup/consistency"] = LossTerm(total, torch.tensor(batch.num_unlabeled), UNLABELED)
        return terms

    def ramp_up(self, step: int) -> float:
        """Return the factor of the consistency weight."""
        since, whole = step - self.config.burn_in_steps, self.config.ramp_up_steps
        return 1.0 if since >= whole else math.exp(-5.0 * (1 - since / whole) ** 2)


def consistency(logits: Tensor, teacher: Tensor, kind: ConsistencyLoss) -> Tensor:
    """Return how far student and teacher are apart on each image, `[B]`, from their logits `[B, N]`."""
    if kind == "mse":
        return (logits.softmax(dim=-1) - teacher.softmax(dim=-1)).square().mean(dim=-1)
    log_q = teacher.log_softmax(dim=-1)
    return (log_q.exp() * (log_q - logits.log_softmax(dim=-1))).sum(dim=-1)
