"""What the engine asks of a method and of a family of methods; it asks nothing else, and knows none of them by name.

A *method* is one paper: which labels it needs, what the student minimises, what it learns beside the weights. A
*family* is what methods of one kind share: data, views, network, evaluation. A `FamilyRun` is a family in one run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from torch import Tensor, nn

from raydet.config.load import resolve_section
from raydet.config.method import TeacherSection
from raydet.config.run import RunConfig
from raydet.data.check import CheckReport
from raydet.data.family import DataFamily
from raydet.data.prepared import PreparedSets
from raydet.errors import UserError
from raydet.group import Group
from raydet.labels.schedule import LabelSchedule
from raydet.labels.source import Annotator
from raydet.learning_rate import lr_at
from raydet.window import Window

Config = TypeVar("Config", bound=RunConfig)
AnyBatch = TypeVar("AnyBatch", bound="Batch")


class Batch(Protocol):
    """This rank's share of one training step."""

    @property
    def step(self) -> int:
        """Return the step: optimiser steps completed before it."""

    @property
    def image_ids(self) -> list[str]:
        """Return the id of each view's image, group by group."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Return the number of views in each group, in the order of the views; equal keys on all ranks."""

    def split(self, parts: int) -> Sequence[Batch]:
        """Return it in so many passes, each with its share of every group, in order; an image's views stay together."""


@dataclass(frozen=True, slots=True, eq=False)
class LossTerm:
    """A loss as sum and count, so that its mean can be taken over all ranks at once."""

    total: Tensor  # scalar SUM over elements; on the graph even when it is empty
    count: Tensor  # scalar number of elements that it is to be divided by, after summing over ranks
    group: str | None = None  # of `Batch.sizes`: the views that it is about; None: all of them


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What one forward over a batch gives."""

    losses: dict[str, LossTerm]  # the keys of `Method.loss_weights`
    per_view: dict[str, Tensor] = field(default_factory=dict)  # one row per view, group by group, detached
    sums: dict[str, Tensor] = field(default_factory=dict)  # float32, detached; summed over all ranks with the losses


class State(Protocol):
    """What a run learns beside the weights: equal on all ranks, saved with the weights of the same step."""

    def tensors(self) -> dict[str, Tensor]:
        """Return it as named tensors, to be saved; nothing where nothing was learned yet."""

    def load(self, tensors: dict[str, Tensor], where: str) -> None:
        """Become what was saved. Raises CheckpointError, starting with `where`, where it does not fit."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """An average of the student: `teacher <- keep * teacher + (1 - keep) * student` after every step."""

    first_step: int  # there it becomes an exact copy of the student
    keep_at: Callable[[int], float]  # step -> keep, in [0, 1)
    buffers: Literal["average", "own"] = "average"  # whether the statistics of norms are averaged, or left to itself
    judged: bool = True  # whether it is evaluated, and is what comes out of the run


@dataclass(frozen=True, slots=True)
class ParamGroup:
    """Parameters of the student with one law of the learning rate; a parameter is in the first group it matches."""

    name: str
    match: Callable[[str], bool]  # parameter name -> whether it belongs here
    lr_at: Callable[[int], float | None]  # step -> learning rate; None: frozen, which changes at stage ends alone


@dataclass(frozen=True, slots=True)
class DataSizes:
    """How much data a run has."""

    labeled: int  # images
    unlabeled: int
    classes: int


def sizes_of(data: PreparedSets[Any]) -> DataSizes:
    """Return how much data a run has."""
    return DataSizes(len(data.labeled), 0 if data.unlabeled is None else len(data.unlabeled), len(data.class_names))


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something is wrong with the labels since the last line of the log."""

    name: str
    message: str
    after_steps: int  # only worth saying when it has been so for so long


class Method(ABC, Generic[Config, AnyBatch]):
    """One paper. Subclasses of a family's base are never subclassed."""

    unseen_by_burn_in: ClassVar[frozenset[str]] = frozenset()
    """Keys of the method's configuration that change nothing before the burn-in's end, so that a search over them
    trains the burn-in once."""

    def __init__(self, config: Config) -> None:
        self.run = config

    @property
    @abstractmethod
    def loss_weights(self) -> dict[str, float]:
        """Names and weights of the loss terms, the same on every rank and at every step.

        The part before the first `/` says, in the log and the report, what a term is about.
        """

    @abstractmethod
    def build_model(self, num_classes: int) -> nn.Module:
        """Return a freshly initialised model; student and teacher are both made by this."""

    @abstractmethod
    def schedule(self) -> LabelSchedule:
        """Say which teacher version labels which step, or that no step needs labels."""

    @abstractmethod
    def losses(self, student: Any, batch: AnyBatch, teacher: Any, state: Any) -> Outputs:
        """Return every term of `loss_weights` for this rank's views; runs inside DDP's forward.

        `teacher` is the average of the student as it is now, in evaluation mode and without gradients, or None before
        its first step; `state` is what `build_state` made.
        """

    def teacher(self) -> Teacher | None:
        """Return the law of the teacher; None: the student of a publish step is the teacher itself."""
        config = self.run.method
        if not isinstance(config, TeacherSection):
            return None
        keep = config.ema_keep_rate
        return Teacher(config.burn_in_steps, lambda step: keep)

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """Return the steps at which the run changes its nature; there it is evaluated and saved."""
        return (self.run.method.burn_in_steps,)

    def lr_at(self, step: int) -> float:
        """Return the learning rate of the step that starts after `step` completed ones."""
        return lr_at(step, self.run.optim)

    def param_groups(self) -> list[ParamGroup]:
        """Return which parameters follow which law of the learning rate; every parameter matches one."""
        return [ParamGroup("all", lambda name: True, self.lr_at)]

    def build_state(self, sizes: DataSizes) -> State | None:
        """Return what the run learns beside the weights; None: nothing."""
        return None

    def state_bytes(self, sizes: DataSizes) -> int:
        """Return how large that is, on every rank and in a checkpoint; allocates nothing."""
        return 0

    def wants_label(self, state: Any, rows: Sequence[int], version: int) -> list[bool]:
        """Say which images (rows of the unlabelled index) want the label of that teacher."""
        return [True] * len(rows)

    def update(
        self,
        state: Any,
        batch: AnyBatch,
        per_view: Mapping[str, Tensor],
        sums: Mapping[str, Tensor],
        group: Group,
    ) -> None:
        """Change the state by what one step's forward gave, before the weights change; the same on all ranks.

        `per_view` are this rank's rows, `sums` those of all ranks together; see `Outputs`.
        """

    def explain_barren(self, window: Window) -> Alarm | None:
        """Say what is wrong with the labels of a window, where something is: a method knows its own gates."""
        return None

    def fork_drops(self, name: str) -> bool:
        """Say whether a run may be forked without that weight of the checkpoint, where its model has none such."""
        return False

    def label_bytes(self, num_classes: int) -> int:
        """Return about how many bytes the label of one image takes in the store."""
        return 0

    def notes(self, sizes: DataSizes) -> list[str]:
        """Return what a user should read before the run starts, a line each."""
        return []


class StepStats(Protocol):
    """What became of this rank's pseudo-labels in one step."""

    def observe(self, per_view: Mapping[str, Tensor]) -> None:
        """Take in what the step's forward said of each view; see `Outputs.per_view`."""

    def add_to(self, window: Window) -> None:
        """Add the figures to those since the last line; `images` is the number of unlabelled ones."""


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


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """A model as other programs load it."""

    weights: dict[str, Tensor]
    class_names: list[str]  # in the order of its outputs
    views: str  # `data.views` as JSON: how an image becomes what the model is fed with
    remark: str = ""  # what was left out


class Family(ABC, Generic[Config]):
    """What the methods of one kind share, whatever the run; one object per family."""

    name: ClassVar[str]
    images: ClassVar[DataFamily[Any, Any, Any]]
    """How its data is read and stored."""

    def prepare(self, config: Config, folder: Path) -> PreparedSets[Any]:
        """Read, check and split the data, and write it where `open` finds it. Raises DataError that lists errors."""
        return self.images.prepare(config.data, folder)

    def open(self, folder: str | Path) -> PreparedSets[Any]:
        """Open what `prepare` wrote. Raises DataError where it is missing or damaged."""
        return self.images.open(folder)

    def open_set(self, given: Mapping[str, Any], folder: Path, *, class_names: tuple[str, ...]) -> Any:
        """Prepare one data set by itself, described by keys of `data.val`, its classes numbered as in `class_names`.

        Raises ConfigError for keys or values that cannot be meant, and DataError where the set cannot be used.
        """
        one = resolve_section(self.images.set_config, given, where=str(given.get("path", "data set")))
        return self.images.prepare_one(one, folder, class_names=class_names)

    def check_data(self, config: Config, *, decode_images: bool) -> CheckReport:
        """List all problems of the data."""
        return self.images.check(config.data, decode_images=decode_images)

    def check(self, config: Config, data: Any) -> None:
        """Raise DataError where the run cannot be meant with this data."""

    @abstractmethod
    def describe(self, data: Any) -> str:
        """Say what the labelled images are, in a few words."""

    @abstractmethod
    def bind(self, config: Config, data: Any, method: Any, group: Group) -> FamilyRun:
        """Return the family at work in one rank of a run."""

    @abstractmethod
    def build_annotator(self, config: Config, data_folder: str, device: str) -> Annotator:
        """Return a teacher that labels the run's unlabelled images, in a process of its own."""

    @abstractmethod
    def evaluate(self, method: Any, model: Any, index: Any, group: Group, *, max_images: int | None) -> Result | None:
        """Evaluate over all ranks; the lead rank gets the figures, the others None. Waits for all ranks."""

    @abstractmethod
    def exported(self, config: Config, model: Any, class_names: Sequence[str]) -> Exported:
        """Return a model with the names that plain torchvision gives its weights, where it is one of torchvision's."""

    def onnx_exporter(self, saved: Any) -> Callable[[Path], str]:
        """Return what writes a saved model as ONNX and says what was written.

        Raises UserError where the family has none.
        """
        config = saved.config
        raise UserError(
            f"ONNX export is for detectors; method.name={config.method.name} trains a {config.trains}, for which there "
            f"are raydet evaluate, raydet report, and raydet export --out FILE.safetensors"
        )

    def on_files(self, saved: Any) -> Any:
        """Return what labels images that belong to no run (`raydet.label_files.labeller.FileModel`).

        Raises UserError where the family has none.
        """
        config = saved.config
        raise UserError(
            f"raydet label is for detectors; method.name={config.method.name} trains a {config.trains}, for which "
            f"there are raydet evaluate, raydet report, and raydet export --out FILE.safetensors"
        )

    @abstractmethod
    def report(self, folder: Path, config: Config) -> tuple[Any, Sequence[Any]]:
        """Return what a run's report is made from, and the makers of its sections (`raydet.report.page.write_page`)."""

    def stage(self, method: Any, step: int) -> str | None:
        """Return the name of the stage that a step belongs to, where the family's methods have some."""
        return None


class FamilyRun(ABC):
    """A family bound to one rank of one run: configuration, data, method and group are its own."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, in label order."""

    @abstractmethod
    def build_loader(self) -> Loader:
        """Return this rank's loader."""

    @abstractmethod
    def build_annotator(self) -> Annotator:
        """Return a teacher that labels in this process; it shares views with the loader where it can."""

    @abstractmethod
    def assemble(self, step: int, views: Any, labels: Sequence[Any], state: Any) -> tuple[Batch, StepStats]:
        """Join views and labels to what the student trains on. `labels` are those that were wanted, in slot order."""

    @abstractmethod
    def evaluate(self, model: Any) -> Result | None:
        """Evaluate on the validation images over all ranks; the lead rank gets the figures, the others None."""

    @abstractmethod
    def figures(self, window: Window) -> dict[str, Any]:
        """Return what the log says about pseudo-labels; `window` has seen at least one."""

    def extras(self, step: int) -> dict[str, Any]:
        """Return more for each line of the log."""
        return {}

    def snapshot(self, step: int, model: Any, state: Any, folder: Path) -> None:  # noqa: B027 - most have none
        """Write what the report wants to look at later; called on the lead rank at every evaluation."""
