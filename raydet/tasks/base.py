"""What a task is: the training loop, the launcher and the pool talk to `Task`, and know no family of methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from raydet.config.run import RunConfig
from raydet.data.check import CheckReport
from raydet.errors import StaleLabelError
from raydet.labels.schedule import LabelSchedule
from raydet.labels.source import Annotator
from raydet.methods import Memory
from raydet.records import Batch, PseudoLabel
from raydet.tasks.window import StepStats, Window
from raydet.train.group import Group

Config = TypeVar("Config", bound=RunConfig)


class Index(Protocol):
    """A set of images, as far as the engine needs to know it."""

    def __len__(self) -> int: ...

    @property
    def content(self) -> str:
        """Return a digest of everything that is known of the images, wherever they lie."""

    def ids(self) -> list[str]:
        """Return all image ids, in row order."""


class Prepared(Protocol):
    """The image sets of one run; what is known of unlabelled images, but hidden from training, is not among them."""

    @property
    def folder(self) -> Path:
        """Return where they lie."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names in label order."""

    @property
    def labeled(self) -> Index:
        """Return the labelled images."""

    @property
    def unlabeled(self) -> Index | None:
        """Return the unlabelled images."""

    @property
    def val(self) -> Index | None:
        """Return the images for evaluation during training."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what a user should know about the data."""


class Loader(Protocol):
    """Serves one rank's images of every step."""

    def unlabeled_ids(self, step: int) -> list[str]:
        """Return the ids of this rank's unlabelled images of a step, in slot order; reads no image."""

    def unlabeled_rows(self, step: int) -> list[int]:
        """Return their rows in the index."""

    def take(self, step: int) -> Any:
        """Return the views of a step; waits until they are ready."""

    def close(self) -> None:
        """Drop what was prepared ahead and end the threads."""


class Result(Protocol):
    """The figures of one evaluation."""

    @property
    def score(self) -> float | None:
        """Return the figure that decides which model is best, the higher the better; None where it is undefined."""

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""

    def as_text(self) -> str:
        """Return a table for people."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something is wrong with the labels since the last line of the log."""

    name: str
    message: str
    after_steps: int  # only worth saying when it has been so for so long


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """A model as other programs load it."""

    weights: dict[str, Tensor]
    class_names: list[str]  # in the order of its outputs
    remark: str = ""  # what was left out


class Task(ABC, Generic[Config]):
    """One family of methods: detection, classification."""

    score_name: str
    """What `Result.score` is called."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @abstractmethod
    def prepare(self, folder: Path) -> Prepared:
        """Read, check and split the data, and write it where `open` finds it. Raises DataError that lists errors."""

    @abstractmethod
    def open(self, folder: str | Path) -> Prepared:
        """Open what `prepare` wrote. Raises DataError where it is missing or damaged."""

    @abstractmethod
    def open_set(self, given: Mapping[str, str], folder: Path, *, class_names: tuple[str, ...]) -> Any:
        """Prepare one data set by itself, described by keys of `data.val`, its classes numbered as in `class_names`."""

    @abstractmethod
    def check_data(self, *, decode_images: bool) -> CheckReport:
        """List all problems of the data."""

    def check(self, data: Any) -> None:
        """Raise DataError where the run cannot be meant with this data."""

    @abstractmethod
    def describe(self, data: Any) -> str:
        """Say what the labelled images are, in a few words."""

    @abstractmethod
    def build_views(self, data: Any, world: int) -> Any:
        """Return what loader and annotator of one of `world` ranks share, where both work in this process."""

    @abstractmethod
    def build_loader(self, data: Any, method: Any, schedule: LabelSchedule, views: Any, group: Group) -> Loader:
        """Return this rank's loader."""

    @abstractmethod
    def build_annotator(self, data_folder: str, device: str, views: Any = None) -> Annotator:
        """Return a teacher that labels the run's unlabelled images; `views` as made by `build_views`."""

    @abstractmethod
    def assemble(
        self,
        step: int,
        views: Any,
        labels: Sequence[Any],
        method: Any,
        memory: Memory | None,
        *,
        version: int | None,
        max_age: int,
        num_classes: int,
    ) -> tuple[Batch, StepStats]:
        """Join views and labels to what the student trains on. `labels` are those that the memory needs, or all;
        `version` is the teacher that labels the step.

        Raises StaleLabelError where a label is older than the schedule's derived bound.
        """

    @abstractmethod
    def evaluate(self, method: Any, model: Any, index: Any, group: Group, *, max_images: int | None) -> Result | None:
        """Evaluate over all ranks; the lead rank gets the figures, the others None. Waits for all ranks."""

    @abstractmethod
    def exported(self, model: Any, class_names: Sequence[str]) -> Exported:
        """Return a model with the names that plain torchvision gives its weights, where it is one of torchvision's."""

    @abstractmethod
    def figures(self, window: Window, class_names: Sequence[str]) -> dict[str, Any]:
        """Return what the log says about pseudo-labels; `window` has seen at least one."""

    @abstractmethod
    def label_bytes(self, num_classes: int) -> int:
        """Return about how many bytes the label of one image takes in the store."""

    def alarm(self, window: Window) -> Alarm | None:
        """Return what is wrong with the labels of a window; None: nothing."""
        return None

    def extras(self, method: Any, step: int) -> dict[str, Any]:
        """Return more for each line of the log."""
        return {}

    def snapshot(
        self,
        step: int,
        method: Any,
        model: Any,
        memory: Memory | None,
        data: Any,
        device: torch.device,
        folder: Path,
    ) -> None:
        """Write what the report wants to look at later; called on the lead rank at every evaluation."""


def check_age(step: int, label: PseudoLabel, max_age: int) -> int:
    """Return the age of a label in steps. Raises StaleLabelError where it is older than the schedule allows."""
    age = step - label.teacher.version
    if not 0 <= age <= max_age:
        raise StaleLabelError(f"step {step}: label of image {label.image_id!r} has age {age}, allowed 0..{max_age}")
    return age
