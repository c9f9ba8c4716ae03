"""What a method of localisation is, beside what every method is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raydet.config.run import RunConfig
from raydet.contract import DataSizes, Method, ParamGroup
from raydet.families.localization.attention import AttentionBoxes
from raydet.families.localization.batch import LocationBatch
from raydet.families.localization.boxes import crops
from raydet.families.localization.config import LocalizationConfig, LocatingSection
from raydet.families.localization.model import LocalizationModel
from raydet.families.localization.views import StrongSwitches
from raydet.labels.schedule import LabelSchedule
from raydet.learning_rate import warm_up
from raydet.registry import build_method


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of a run; every stage shuffles its images anew."""

    name: str
    first: int  # the step that it starts with


class LocalizationMethod(Method[LocalizationConfig, LocationBatch]):
    """A method that puts one box on each image. Boxes are xyxy in shares of the view."""

    settings: ClassVar[type[LocatingSection]] = LocatingSection
    config: LocatingSection
    thresholds: tuple[float, ...] = ()
    """Where `locate` gives several boxes of an image, the thresholds that they belong to."""
    own_threshold: int = 0
    """The place of the method's own one."""
    has_momentum: bool = False
    """Whether an average of the classifier makes the boxes, which `method.stability_every` looks at."""
    strong = StrongSwitches()
    """Which operations the strong view has."""

    @abstractmethod
    def locate(self, model: LocalizationModel, pixels: Tensor, classes: Tensor) -> Tensor:
        """Return the boxes `[B, T, 4]` of test views `pixels` `[B, 3, S, S]` in [0, 1]; T is 1, or as many as the
        method has `thresholds`.

        `classes` `[B]` are the true ones where they are known, else the best ones of the classifier. In evaluation mode
        and without gradients.
        """

    def pseudo_boxes_of(self, model: LocalizationModel, pixels: Tensor, classes: Tensor) -> Tensor | None:
        """Return the boxes `[B, 4]` that the localizer learns from in the first stage; None: it has none, or none
        others than `locate`."""
        return None

    def attention(self, model: LocalizationModel, pixels: Tensor, classes: Tensor) -> AttentionBoxes | None:
        """Return what Algorithm 1 sees of images, for pictures; None: the method does not use it."""
        return None

    def confidence(self, model: LocalizationModel, pixels: Tensor, boxes: Tensor) -> Tensor:
        """Return how sure the method is of boxes `[B, 4]` of images `[B, 3, S, S]`, `[B]` in [0, 1]: the best class's
        probability on the crop."""
        return crop_probabilities(model, pixels, boxes).amax(dim=1)

    def stage_at(self, step: int) -> Stage:
        """Return the stage that a step belongs to."""
        ends = [end for end in self.stage_ends if end <= step]
        return Stage(self.stage_names[len(ends)], ends[-1] if ends else 0)

    def stage_name(self, step: int) -> str:
        """Name that stage."""
        return self.stage_at(step).name

    @property
    @abstractmethod
    def stage_names(self) -> tuple[str, ...]:
        """Return the names of the stages, in order."""

    @property
    def fresh_optimizer_at(self) -> tuple[int, ...]:
        """The second stage minimises something else: the momentum of the first is no guide to it."""
        return self.stage_ends

    def schedule(self) -> LabelSchedule:
        """No step needs labels: boxes are made of this step's views by this step's weights."""
        return LabelSchedule.none()

    def classifier_lr_at(self, step: int) -> float:
        """Return the classifier's learning rate: falling geometrically, `classifier_decay` at a time."""
        optim, config = self.run.optim, self.config
        fallen = config.classifier_decay ** (step // config.classifier_decay_steps)
        return optim.lr * warm_up(step, optim) * fallen

    def groups(
        self, classifier: Callable[[int], float | None], localizer: Callable[[int], float | None]
    ) -> list[ParamGroup]:
        """Return two groups of parameters with a law each."""
        return [
            ParamGroup("classifier", lambda name: name.startswith("classifier."), classifier),
            ParamGroup("localizer", lambda name: name.startswith("localizer."), localizer),
        ]

    def notes(self, sizes: DataSizes) -> list[str]:
        """Say how long an epoch is, which the classifier's learning rate should go by."""
        epoch, every = sizes.labeled / self.run.optim.labeled_batch, self.config.classifier_decay_steps
        found = [f"an epoch is {epoch:.1f} steps; the classifier's learning rate falls every {every}"]
        if not 0.5 <= every / epoch <= 2:
            found.append(f"warning: method.classifier_decay_steps={every} is not an epoch ({epoch:.0f} steps)")
        return found


def localization_method(config: RunConfig) -> LocalizationMethod:
    """Return the method of a localizer's run."""
    method = build_method(config)
    assert isinstance(method, LocalizationMethod), type(method)
    return method


def crop_probabilities(model: LocalizationModel, pixels: Tensor, boxes: Tensor) -> Tensor:
    """Return the classifier's probabilities `[B, N]` of the boxes' crops, in the mode that it is in."""
    logits: Tensor = model.classifier(crops(pixels, boxes)).logits
    return logits.softmax(dim=-1)


def nan_rows(like: Tensor) -> Tensor:
    """Return a figure that no image of a batch has, `[B]`."""
    return torch.full((len(like),), torch.nan, device=like.device)
