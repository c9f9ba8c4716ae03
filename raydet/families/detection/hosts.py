"""What methods for data with rare classes stand on: a host decides about views, teacher, gates and all losses but that
of the RoI classes, which is theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydet.contract import Alarm, DataSizes, LossTerm, Teacher
from raydet.data.boxes.index import DatasetIndex
from raydet.data.order import Listing
from raydet.families.detection.batch import LABELED, UNLABELED, StudentBatch, framed
from raydet.families.detection.config import DetectionConfig, UnbiasedTeacherConfig
from raydet.families.detection.gates import by_score
from raydet.families.detection.long_tail_config import LongTailConfig
from raydet.families.detection.method import DetectionMethod, Selection, Thresholds, no_survivors
from raydet.families.detection.methods.soft_teacher import SoftPass, SoftTeacher, above
from raydet.families.detection.methods.unbiased_teacher import UnbiasedTeacher
from raydet.families.detection.passes import loss_terms, train_pass
from raydet.families.detection.repeats import (
    class_factors,
    class_frequencies,
    image_factor,
    images_per_class,
    rounded,
)
from raydet.families.detection.view_recipes import ViewRecipe
from raydet.labels.schedule import LabelSchedule
from raydet.randomness import stream
from raydet.records import Candidates, PseudoBoxes
from raydet.vision.detector import Detector
from raydet.vision.images import ImageBatch
from raydet.window import Window


class Host(Protocol):
    """The part of a method that stands below another one."""

    @property
    def loss_weights(self) -> dict[str, float]:
        """Return the weights of all terms."""

    @property
    def recipe(self) -> ViewRecipe:
        """Return the views."""

    def teacher(self) -> Teacher | None:
        """Return the law of the teacher."""

    def annotate(self, teacher: Any, images: ImageBatch, rngs: Sequence[torch.Generator]) -> list[Candidates]:
        """Return what the teacher says."""

    def forward(self, student: Detector, batch: StudentBatch, teacher: Any, theta: float | Tensor) -> SoftPass:
        """Run all passes but the loss of the RoI classes; `theta`: one threshold, or one per class `[K]`."""


class UnbiasedHost:
    """Unbiased Teacher: all losses look at the boxes above theta, and pseudo-boxes train the classifiers only."""

    def __init__(self, config: DetectionConfig) -> None:
        method = config.method
        assert isinstance(method, LongTailConfig)
        own = UnbiasedTeacherConfig(
            burn_in_steps=method.burn_in_steps,
            ema_keep_rate=method.ema_keep_rate,
            score_threshold=method.cls_pseudo_threshold,
            unsup_cls_weight=method.unsup_weight,
            teacher_proposals=method.teacher_proposals,
        )
        self.seed = config.seed
        self.below = UnbiasedTeacher(config.model_copy(update={"method": own}))

    @property
    def loss_weights(self) -> dict[str, float]:
        """Unbiased Teacher's, and how many pseudo-boxes an image has, for the log."""
        return self.below.loss_weights | {"unsup/boxes_cls": 0.0}

    @property
    def recipe(self) -> ViewRecipe:
        """Teacher and student share a geometry."""
        return self.below.recipe

    def teacher(self) -> Teacher | None:
        """An average with one rate, from the burn-in's end on."""
        return self.below.teacher()

    def annotate(self, teacher: Any, images: ImageBatch, rngs: Sequence[torch.Generator]) -> list[Candidates]:
        """Return the teacher's detections."""
        return self.below.annotate(teacher, images, rngs)

    def forward(self, student: Detector, batch: StudentBatch, teacher: Any, theta: float | Tensor) -> SoftPass:
        """Run one pass about the boxes above theta; background counts fully."""
        images = framed(batch.views, student)
        rngs = [stream(self.seed, "sampling", view.role, view.image_id, batch.step) for view in batch.views]
        pseudo = [above(each, theta) for each in batch.targets[batch.num_labeled :]]
        found = train_pass(student, images, (*batch.targets[: batch.num_labeled], *pseudo), rngs)
        terms = {**loss_terms(found, batch, LABELED, "sup"), **loss_terms(found, batch, UNLABELED, "unsup")}
        weights = torch.ones_like(found.roi.cls_rows)
        number = weights.new_full((), float(sum(map(len, pseudo))))
        terms["unsup/boxes_cls"] = LossTerm(number, torch.tensor(len(pseudo)), UNLABELED)
        return SoftPass(found.roi, weights, terms)


class HostedMethod(DetectionMethod):
    """A method whose loss of the RoI classes is its own; all the rest is the host's."""

    settings: ClassVar[type[LongTailConfig]] = LongTailConfig
    config: LongTailConfig
    host_unseen_by_burn_in = SoftTeacher.unseen_by_burn_in

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.host: Host = SoftTeacher(config) if self.config.host == "soft_teacher" else UnbiasedHost(config)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The host's."""
        return self.host.loss_weights

    @property
    def recipe(self) -> ViewRecipe:
        """The host's."""
        return self.host.recipe

    def schedule(self) -> LabelSchedule:
        """The newest teacher."""
        return self.moving_teacher()

    def teacher(self) -> Teacher | None:
        """The host's."""
        return self.host.teacher()

    def annotate(self, teacher: Any, images: ImageBatch, rngs: Sequence[torch.Generator]) -> list[Candidates]:
        """Return what the host's teacher says."""
        return self.host.annotate(teacher, images, rngs)

    def select(self, labels: PseudoBoxes) -> Selection:
        """Keep the boxes above theta; see `carried`."""
        theta = self.config.cls_pseudo_threshold
        kept = by_score(labels, theta)
        return Selection(kept, {"score": len(labels) - len(kept)}, labels.complete_above <= theta)

    def carried(self, labels: PseudoBoxes, selection: Selection) -> PseudoBoxes:
        """Return all that any of the gates may let through."""
        return by_score(labels, self.config.pseudo_score_floor)

    @property
    def thresholds(self) -> Thresholds:
        """Theta."""
        return Thresholds("method.cls_pseudo_threshold", floor="method.pseudo_score_floor")

    def listings(self, state: Any, sizes: DataSizes) -> list[Listing]:
        """List labelled images by their rarest class, where that is asked for."""
        if self.config.labeled_sampling == "random" or sizes.sets is None:
            return []
        classes = classes_of(sizes.sets.labeled)
        frequencies = class_frequencies(images_per_class(classes, sizes.classes), len(classes))
        factors = class_factors(frequencies, self.config.rfs_repeat_threshold)
        every = np.array([image_factor(each, factors) for each in classes])
        return [Listing("labeled", 0, rounded(every, self.config.repeat_rounding))]

    def explain_barren(self, window: Window) -> Alarm | None:
        """Say why no pseudo-box trains the RoI classes."""
        theta, after = self.config.cls_pseudo_threshold, self.config.alarm_after_steps
        cause = "candidates score high enough, but every one is dropped"
        return no_survivors(window, theta, after, otherwise=cause, key="method.cls_pseudo_threshold")


def classes_of(index: DatasetIndex) -> list[NDArray[np.int64]]:
    """Return the distinct classes that each image of a set has boxes of."""
    return [index.classes_at(row) for row in range(len(index))]
