"""What the engine asks of a family: once for all runs (`Family`), and bound to one run (`FamilyRun`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from raydet.config.load import resolve_section
from raydet.config.run import RunConfig
from raydet.contract.method import Method
from raydet.contract.types import Batch, Finding
from raydet.data.check import CheckReport
from raydet.data.family import DataFamily
from raydet.data.mapped import MappedIndex
from raydet.data.order import Listing
from raydet.data.prefetch import Jobs, Prefetcher
from raydet.data.prepared import PreparedSets
from raydet.errors import UserError
from raydet.group import Group
from raydet.labels.source import Annotator
from raydet.recipe.request import Recipe, Request
from raydet.window import Window

Config = TypeVar("Config", bound=RunConfig)
Index = TypeVar("Index", bound=MappedIndex)
AnyMethod = TypeVar("AnyMethod", bound=Method[Any, Any])
Model = TypeVar("Model", bound=nn.Module)


class StepStats(Protocol):
    """What became of this rank's pseudo-labels in one step."""

    def observe(self, per_view: Mapping[str, Tensor]) -> None:
        """Take in what the step's forward said of each view; see `Outputs.per_view`."""

    def add_to(self, window: Window) -> None:
        """Add the figures to those since the last line; `images` is the number of those that have pseudo-labels."""


class Loader(Protocol):
    """Serves one rank's images of every step. What derives from it has no images that want a label until it says so."""

    def unlabeled_ids(self, step: int) -> list[str]:
        """Return the ids of this rank's unlabelled images of a step, in slot order; reads no image."""
        return []

    def unlabeled_rows(self, step: int) -> list[int]:
        """Return their rows in the index."""
        return []

    def take(self, step: int) -> Any:
        """Return the views of a step; waits until they are ready."""

    def close(self) -> None:
        """Drop what was prepared ahead and end the threads."""


class ThreadedLoader(Loader, Generic[Jobs]):
    """A `Loader` whose threads prepare `data.prefetch_steps` steps ahead of the training loop."""

    def __init__(self, config: RunConfig) -> None:
        data = config.data
        self._ahead = Prefetcher(self._start, threads=data.loader_threads, ahead=data.prefetch_steps, end=config.length)

    @abstractmethod
    def _start(self, step: int) -> Jobs:
        """Submit a step's jobs, in groups, to `_ahead`."""

    def close(self) -> None:
        """Drop what was prepared ahead and end the threads; waits for images being decoded right now."""
        self._ahead.close()


@runtime_checkable
class ListingLoader(Protocol):
    """A `Loader` that can list images more than once."""

    def list_anew(self, listings: Sequence[Listing], until: int | None) -> None:
        """Follow these listings; steps from `until` on are not settled yet, and not prepared ahead (None: all are)."""

    def all_unlabeled_rows(self, step: int) -> NDArray[np.int64]:
        """Return the rows of the unlabelled images of a step, those of all ranks, in slot order."""


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


class Family(ABC, Generic[Config, Index, AnyMethod, Model]):
    """What the methods of one kind share, whatever the run; one object per family.

    It names what it is made of: the configuration of a run, the images of a set, the base of its methods, what they
    train.
    """

    name: ClassVar[str]
    images: ClassVar[DataFamily[Any, Any, Any]]  # of `Index`: a class attribute cannot say so
    """How its data is read and stored."""
    run_class: ClassVar[type[FamilyRun]]
    """What `bind` returns one of."""

    def prepare(self, config: Config, folder: Path) -> PreparedSets[Index]:
        """Read, check and split the data, and write it where `open` finds it. Raises DataError that lists errors."""
        return self.images.prepare(config.data, folder)

    def open(self, folder: str | Path) -> PreparedSets[Index]:
        """Open what `prepare` wrote. Raises DataError where it is missing or damaged."""
        return self.images.open(folder)

    def check_sources(self, config: Config, data: PreparedSets[Index], *names: str) -> None:
        """Raise DataError unless the images of these sets are where and what they were when the run began."""
        self.images.check_sources(config.data, data, *names)

    def relocate(self, config: Config, folder: Path) -> PreparedSets[Index]:
        """Take a run's data from where `config` says that it lies now. Raises DataError unless it is the same data."""
        return self.images.relocate(config.data, folder)

    def open_set(
        self, given: Mapping[str, Any], folder: Path, *, class_names: tuple[str, ...], config: Config | None = None
    ) -> Index:
        """Prepare one data set by itself, described by keys of `data.val`, its classes numbered as in `class_names`.

        It is read by the rules of `config`, where one is given: what to do with bad images and boxes.

        Raises ConfigError for keys or values that cannot be meant, and DataError where the set cannot be used.
        """
        one = resolve_section(self.images.set_config, given, where=str(given.get("path", "data set")))
        settings = None if config is None else config.data
        found: Index = self.images.prepare_one(one, folder, class_names=class_names, settings=settings)
        return found

    def check_data(self, config: Config, *, decode_images: bool) -> CheckReport:
        """List all problems of the data."""
        return self.images.check(config.data, decode_images=decode_images)

    def check(self, config: Config, data: PreparedSets[Index]) -> None:
        """Raise UserError where the run cannot be meant with this data."""

    def propose(self, request: Request) -> Recipe:
        """Return a configuration that suits data and machine, with a reason for every value: see its `recipe/`.

        Raises DataError where the data cannot be used, UserError where what was asked for cannot be had.
        """
        # only `raydet init` needs it
        recipe: Recipe = import_module(f"raydet.families.{self.name}.recipe.propose").propose(request)
        return recipe

    @abstractmethod
    def describe(self, data: PreparedSets[Index]) -> str:
        """Say what the labelled images are, in a few words."""

    def bind(self, data: PreparedSets[Index], method: AnyMethod, group: Group) -> FamilyRun:
        """Return the family at work in one rank of a run."""
        return self.run_class(data, method, group)

    def build_annotator(self, config: Config, data_folder: str, device: str) -> Annotator:
        """Return a teacher that labels the run's unlabelled images, in a process of its own, where methods want one."""
        raise AssertionError(f"no method of {self.name} asks for labels")

    @abstractmethod
    def evaluate(
        self, method: AnyMethod, model: Model, index: Index, group: Group, *, max_images: int | None
    ) -> Result | None:
        """Evaluate over all ranks; the lead rank gets the figures, the others None. Waits for all ranks."""

    def evaluate_proposals(
        self, method: AnyMethod, model: Model, index: Index, group: Group, *, max_images: int | None
    ) -> Result | None:
        """Judge a model's region proposals over all ranks, as `evaluate`. Raises UserError where it has none."""
        config = method.run
        raise UserError(
            f"--proposals is for detectors and for pre-training; method.name={config.method.name} trains a "
            f"{config.trains}, which proposes no regions: leave it out"
        )

    @abstractmethod
    def exported(self, config: Config, model: Model, class_names: Sequence[str]) -> Exported:
        """Return a model with the names that plain torchvision gives its weights, where it is one of torchvision's."""

    def onnx_exporter(self, saved: Any) -> Callable[..., str]:
        """Return what writes a saved model as ONNX, `(file, *, size=None)`, and says what was written.

        Raises UserError where the family has none.
        """
        config = saved.config
        raise UserError(
            f"ONNX export is for detectors and localizers; method.name={config.method.name} trains a {config.trains}, "
            f"for which there are raydet evaluate, raydet report, and raydet export --out FILE.safetensors"
        )

    def on_files(self, saved: Any) -> Any:
        """Return what labels images that belong to no run (`raydet.image_jobs.file_model.FileModel`).

        Raises UserError where the family has none.
        """
        config = saved.config
        raise UserError(
            f"raydet label is for detectors and localizers; method.name={config.method.name} trains a {config.trains}, "
            f"for which there are raydet evaluate, raydet report, and raydet export --out FILE.safetensors"
        )

    def report(self, folder: Path, config: Config) -> tuple[Any, Sequence[Any]]:
        """Return what a run's report is made from, and the makers of its sections (`raydet.report.page.write_page`)."""
        # not imported before it is wanted: it imports matplotlib
        found: tuple[Any, Sequence[Any]] = import_module(f"raydet.families.{self.name}.report").made(folder, config)
        return found

    def limits(self, inputs: Any) -> Sequence[Finding]:
        """Say what limits a run, from what its report is made from; nothing where the figures do not say it."""
        return ()

    def comparison(self, runs: Any, *, max_images: int) -> Sequence[Any]:
        """Return makers of more sections for a page that compares runs (`raydet.report.compare.runs.Compared`).

        Models may be run for it, on at most `max_images` validation images.
        """
        return ()


class FamilyRun(ABC):
    """A family bound to one rank of one run: configuration, data, method and group are its own."""

    def __init__(self, data: PreparedSets[Any], method: Method[Any, Any], group: Group) -> None:
        self._data, self._method, self._group = data, method, group

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, in label order."""
        return self._data.class_names

    @abstractmethod
    def build_loader(self) -> Loader:
        """Return this rank's loader."""

    def build_annotator(self) -> Annotator:
        """Return a teacher that labels in this process, where methods want one; it shares views with the loader where
        it can."""
        raise AssertionError(f"{type(self).__name__}: no method of this family asks for labels")

    @abstractmethod
    def assemble(self, step: int, views: Any, labels: Sequence[Any], state: Any) -> tuple[Batch, StepStats]:
        """Join views and labels to what the student trains on. `labels` are those that were wanted, in slot order."""

    @abstractmethod
    def figures(self, window: Window) -> dict[str, Any]:
        """Return what the log says about pseudo-labels; `window` has seen at least one."""

    def extras(self, step: int) -> dict[str, Any]:
        """Return more for each line of the log."""
        return {}

    def snapshot(self, step: int, model: Any, state: Any, folder: Path) -> None:  # noqa: B027 - most have none
        """Write what the report wants to look at later; called on the lead rank at every evaluation."""
