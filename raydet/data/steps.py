"""The steps of preparing data that each family does in its own way: reading, splitting, hiding, writing, saying."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from raydet.config.base import DataSection, SetConfig
from raydet.data.check import Summary
from raydet.data.leaks import Pictures
from raydet.data.mapped import MappedIndex
from raydet.data.problems import ProblemLog


class Table(Pictures, Protocol):
    """The usable images of one set, with what is known of them."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, in label order."""

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return the images `rows`, in that order."""


AnyTable = TypeVar("AnyTable", bound=Table)
AnyIndex = TypeVar("AnyIndex", bound=MappedIndex)


class DataSteps(ABC, Generic[SetConfig, AnyTable, AnyIndex]):
    """The steps of one family; what all families do with them is `DataFamily`."""

    kind: ClassVar[str]
    """What the folders of prepared data are marked with."""
    set_config: type[SetConfig]
    index: type[AnyIndex]
    most_files_searched: ClassVar[int | None] = None
    """With more image files, a run starts without opening them all to find pictures that are in two sets."""
    hides_of: ClassVar[tuple[str, ...]] = ("unlabeled",)
    """The sets of which training must not see all that is known; of the last of them it is kept, for diagnostics."""

    @abstractmethod
    def read(
        self,
        name: str,
        one: SetConfig,
        log: ProblemLog,
        *,
        settings: DataSection[SetConfig] | None,
        generated: Path,
        decode_images: bool,
    ) -> tuple[AnyTable, str]:
        """Return what is usable of a set, and its format; `name` is "data" where it is looked at alone.

        `generated` is for images that do not exist yet. Raises DataError where it cannot be read at all.
        """

    @abstractmethod
    def renumbered(
        self, table: AnyTable, class_names: tuple[str, ...], name: str, path: str, log: ProblemLog
    ) -> AnyTable:
        """Return a set with the class numbers of `class_names`, matched by name."""

    @abstractmethod
    def report_classes(self, table: AnyTable, name: str, path: str, log: ProblemLog) -> None:
        """Report classes that nothing can be learnt, or measured, about."""

    @abstractmethod
    def is_barren(self, table: AnyTable) -> bool:
        """Return whether nothing is known of any image."""

    @abstractmethod
    def ids(self, table: AnyTable) -> Sequence[str]:
        """Return all image ids, in row order."""

    @abstractmethod
    def choose_rows(self, config: DataSection[SetConfig], table: AnyTable) -> NDArray[np.int64]:
        """Return the rows that keep their labels, ascending. Raises DataError where `config` asks for too much."""

    def thinned(self, config: DataSection[SetConfig], table: AnyTable) -> AnyTable:
        """Return the labelled images with what the settings take away of their annotations. Raises DataError."""
        return table

    @abstractmethod
    def classes_of(self, table: AnyTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return rows and classes of all that is annotated: an image of several classes comes up several times."""

    @abstractmethod
    def fingerprint(self, table: AnyTable) -> str:
        """Name what a split is drawn from."""

    @abstractmethod
    def hidden_and_bare(self, table: AnyTable) -> tuple[AnyTable | None, AnyTable]:
        """Return what training must not know of images, if anything is known, and the images without it."""

    @abstractmethod
    def write(self, path: Path, table: AnyTable) -> None:
        """Write an index file."""

    @abstractmethod
    def summarise(self, name: str, path: str, format: str, table: AnyTable, *, look: bool) -> Summary:
        """Say what a set holds; with `look` images may be opened for it."""
