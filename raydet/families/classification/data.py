"""Images with one label each, as a `DataFamily`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raydet.config.base import DataSection
from raydet.config.class_data import ImageDataConfig, ImageSetConfig
from raydet.data.bad_images import OnBadImage
from raydet.data.classes.classes import renumbered, report_missing_classes
from raydet.data.classes.formats.detect import detect_format, read_images
from raydet.data.classes.index import ImageIndex, write_images
from raydet.data.classes.rules import usable
from raydet.data.classes.splits import choose_rows, fingerprint
from raydet.data.classes.summary import ImageSetSummary, summarise
from raydet.data.classes.table import NO_LABEL, ImageTable
from raydet.data.decode import FULL_RANGE
from raydet.data.family import DataFamily
from raydet.data.prepared import PreparedSets
from raydet.data.problems import ProblemLog
from raydet.text import plural


class ImageData(DataFamily[ImageSetConfig, ImageTable, ImageIndex]):
    """Images with one label each."""

    kind: ClassVar[str] = "classification"
    set_config = ImageSetConfig
    index = ImageIndex
    most_files_searched: ClassVar[int | None] = 100_000

    def read(
        self,
        name: str,
        one: ImageSetConfig,
        log: ProblemLog,
        *,
        settings: DataSection[ImageSetConfig] | None,
        generated: Path,
        decode_images: bool,
    ) -> tuple[ImageTable, str]:
        """Return the usable images of a set, and its format. Looked at alone, all need a label where one has it."""
        bad: OnBadImage = "error"
        gray = FULL_RANGE
        if isinstance(settings, ImageDataConfig):
            bad, gray = settings.on_bad_image, settings.views.gray16_range
        table, format = read_images(one, log, role=name), detect_format(one, name)
        needs_labels = name != "unlabeled" if name != "data" else bool((table.labels != NO_LABEL).any())
        table = usable(
            replace(table, gray16_range=gray),
            one.path,
            log,
            needs_labels=needs_labels,
            decode_images=decode_images,
            on_bad_image=bad,
        )
        return table, format

    def renumbered(
        self, table: ImageTable, class_names: tuple[str, ...], name: str, path: str, log: ProblemLog
    ) -> ImageTable:
        """Return a set with the class numbers of `class_names`; other classes are errors, but for unlabelled images."""
        return renumbered(table, class_names, path, log, is_hidden=name == "unlabeled")

    def report_classes(self, table: ImageTable, name: str, path: str, log: ProblemLog) -> None:
        """Report classes without images, and too few classes."""
        report_missing_classes("given" if name == "data" else name, table, path, log)
        if name == "labeled" and len(table.class_names) < 2 and not self.is_barren(table):
            message = f"the labelled set has {plural(len(table.class_names), 'class')}"
            log.error("one-class", path, "", message, "a classifier needs two or more")

    def is_barren(self, table: ImageTable) -> bool:
        """Return whether there is no label to learn from."""
        return not (table.labels != NO_LABEL).any()

    def ids(self, table: ImageTable) -> Sequence[str]:
        """Return all image ids, in row order."""
        return list(table.ids.to_pylist())

    def choose_rows(self, config: DataSection[ImageSetConfig], table: ImageTable) -> NDArray[np.int64]:
        """Return the rows that keep their labels, ascending."""
        assert isinstance(config, ImageDataConfig)
        return choose_rows(config, table)

    def classes_of(self, table: ImageTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return rows and labels of the images that have one."""
        rows = np.flatnonzero(table.labels != NO_LABEL)
        return rows, table.labels[rows]

    def fingerprint(self, table: ImageTable) -> str:
        """Name the images and their labels."""
        return fingerprint(table)

    def hidden_and_bare(self, table: ImageTable) -> tuple[ImageTable | None, ImageTable]:
        """Return the true labels, if there are any, and the images without them.

        Pixels are not stored a second time: take them from the images.
        """
        is_known = bool((table.labels >= 0).any())
        return table.without_pixels() if is_known else None, table.without_labels()

    def write(self, path: Path, table: ImageTable) -> None:
        """Write an index file."""
        write_images(path, table)

    def summarise(self, name: str, path: str, format: str, table: ImageTable, *, look: bool) -> ImageSetSummary:
        """Count images and classes; with `look`, look at sizes and colours."""
        return summarise(name, path, format, table, look=look)


IMAGES = ImageData()
PreparedImages = PreparedSets[ImageIndex]
