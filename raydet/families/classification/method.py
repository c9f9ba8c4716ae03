"""What a classification method is, beside what every method is."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from raydet.config.run import RunConfig
from raydet.contract import DataSizes, LossTerm, Method, Outputs
from raydet.families.classification.batch import ClassBatch
from raydet.families.classification.config import ClassificationConfig
from raydet.families.classification.label_table import LabelTable
from raydet.randomness import derive_seed
from raydet.registry import build_method
from raydet.vision.classifier import Classifier
from raydet.vision.device import to_device


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of a run with batches of its own; every stage shuffles its images anew."""

    name: str
    first: int  # the step that it starts with
    labeled_batch: int  # images per step, over all ranks
    unlabeled_batch: int
    cutout: bool
    is_pooled: bool = False  # the two batches are one, shared out by the numbers of labelled and unlabelled images

    def batches(self, num_labeled: int, num_unlabeled: int) -> tuple[int, int]:
        """Return the labelled and the unlabelled images per step, over all ranks."""
        if not self.is_pooled:
            return self.labeled_batch, self.unlabeled_batch
        batch = self.labeled_batch + self.unlabeled_batch
        labeled = max(1, round(batch * num_labeled / (num_labeled + num_unlabeled)))
        return labeled, batch - labeled


class ClassificationMethod(Method[ClassificationConfig, ClassBatch]):
    """A method that trains an image classifier."""

    teacher_sees: ClassVar[Literal["plain", "augmented"]] = "plain"
    """Which view of an image the teacher labels."""

    @abstractmethod
    def terms(self, logits: Tensor, batch: ClassBatch) -> dict[str, LossTerm]:
        """Return every term of `loss_weights` from the student's logits `[B, N]` float32, labelled rows first."""

    def stage_at(self, step: int) -> Stage:
        """Return the stage that a step belongs to: labelled images alone in the burn-in, then both."""
        optim, burn_in = self.run.optim, self.run.method.burn_in_steps
        if not self.run.uses_labels:
            return Stage("supervised", 0, optim.labeled_batch, 0, cutout=True)
        if step < burn_in:
            return Stage("burn-in", 0, optim.labeled_batch, 0, cutout=True)
        return Stage("semi-supervised", burn_in, optim.labeled_batch, optim.unlabeled_batch, cutout=True)

    def stage_name(self, step: int) -> str:
        """Name that stage."""
        return self.stage_at(step).name

    @property
    def learns_labels_until(self) -> int | None:
        """Return the step from which on the labels that the run learns stay what they are; None: it learns none."""
        return None

    @property
    def fresh_optimizer_at(self) -> tuple[int, ...]:
        """The first pseudo-labels come with other batches, and so with an optimiser of their own: the momentum of the
        labelled images' gradients is no guide to theirs."""
        return (self.run.method.burn_in_steps,) if self.run.uses_labels else ()

    def build_model(self, num_classes: int) -> Classifier:
        """Return a freshly initialised classifier; student and teacher are both made by this."""
        return Classifier(self.run.model, num_classes)

    def build_state(self, sizes: DataSizes) -> LabelTable | None:
        """Return the labels that the run learns; None: it learns none."""
        return None

    def label_bytes(self, num_classes: int) -> int:
        """Return the size of a float32 per class, and of what a row has besides: key and digest."""
        return 100 + 4 * num_classes

    def losses(self, student: Classifier, batch: ClassBatch, teacher: Any, state: Any) -> Outputs:
        """Return the losses of a batch, and the logits of all its views."""
        device = next(student.parameters()).device
        seed = derive_seed(self.run.seed, "forward", batch.step, batch.image_ids[0])
        said = student(to_device(batch.pixels, device), torch.Generator(device).manual_seed(seed))
        return Outputs(self.terms(said.logits, batch), {"logits": said.logits.detach()})


def classification_method(config: RunConfig) -> ClassificationMethod:
    """Return the method of a classifier's run."""
    method = build_method(config)
    assert isinstance(method, ClassificationMethod), type(method)
    return method


def cross_entropy(logits: Tensor, classes: Tensor, group: str | None = None) -> LossTerm:
    """Return the cross-entropy of logits `[B, N]` with classes `[B]`, summed, over the B rows of a group."""
    total = F.cross_entropy(logits, to_device(classes, logits.device), reduction="sum")
    return LossTerm(total, torch.tensor(len(logits)), group)


def nothing(logits: Tensor, group: str | None = None) -> LossTerm:
    """Return a term that is absent from this step, and still on the graph."""
    return LossTerm(logits.sum() * 0.0, torch.tensor(0), group)
