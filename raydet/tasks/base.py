"""What a task is: the training loop, the launcher and the pool talk to `Task`, and know no family of methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from raydet.config.load import resolve_section
from raydet.config.run import RunConfig
from raydet.data.check import CheckReport
from raydet.data.family import DataFamily
from raydet.data.prepared import PreparedSets
from raydet.errors import StaleLabelError
from raydet.labels.schedule import LabelSchedule
from raydet.labels.source import Annotator
from raydet.methods import Memory
from raydet.records import Batch, PseudoLabel
from raydet.tasks.window import StepStats, Window
from raydet.train.group import Group

Config = TypeVar("Config", bound=RunConfig)


Prepared = PreparedSets[Any]


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
    views: str  # `data.views` as JSON: how an image becomes what the model is fed with
    remark: str = ""  # what was left out


class Task(ABC, Generic[Config]):
    """One family of methods: detection, classification."""

    images: ClassVar[DataFamily[Any, Any, Any]]
    """How its data is read and stored."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def prepare(self, folder: Path) -> PreparedSets[Any]:
        """Read, check and split the data, and write it where `open` finds it. Raises DataError that lists errors."""
        return self.images.prepare(self.config.data, folder)

    def open(self, folder: str | Path) -> PreparedSets[Any]:
        """Open what `prepare` wrote. Raises DataError where it is missing or damaged."""
        return self.images.open(folder)

    def open_set(self, given: Mapping[str, Any], folder: Path, *, class_names: tuple[str, ...]) -> Any:
        """Prepare one data set by itself, described by keys of `data.val`, its classes numbered as in `class_names`.

        Raises ConfigError for keys or values that cannot be meant, and DataError where the set cannot be used.
        """
        one = resolve_section(self.images.set_config, given, where=str(given.get("path", "data set")))
        return self.images.prepare_one(one, folder, class_names=class_names)

    def check_data(self, *, decode_images: bool) -> CheckReport:
        """List all problems of the data."""
        return self.images.check(self.config.data, decode_images=decode_images)

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
