"""Images with one class each, and boxes that training never sees, as a `DataFamily`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raydet.config.base import DataSection
from raydet.config.located_data import LocatedDataConfig, LocatedSetConfig
from raydet.data.classes.classes import renumbered, report_missing_classes
from raydet.data.classes.splits import choose_rows, fingerprint
from raydet.data.classes.table import NO_LABEL
from raydet.data.evenly import evenly
from raydet.data.family import DataFamily
from raydet.data.located.formats.detect import read_located
from raydet.data.located.index import LocatedIndex, write_located
from raydet.data.located.rules import usable
from raydet.data.located.summary import LocatedSummary, summarise
from raydet.data.located.table import LocatedTable
from raydet.data.prepared import PreparedSets
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.files import write_text
from raydet.text import plural, some

MEASURED = ("val", "test", "data")  # by their boxes; those of the training images are for diagnostics
MEAN_BOX = "mean_box.json"
MEAN_OF = 2_000  # training images that the mean box is that of, evenly spaced: of files, headers tell the sizes


class LocatedData(DataFamily[LocatedSetConfig, LocatedTable, LocatedIndex]):
    """Images with one class each, and boxes that training never sees."""

    kind: ClassVar[str] = "localization"
    set_config = LocatedSetConfig
    index = LocatedIndex
    most_files_searched: ClassVar[int | None] = 100_000
    hides_of: ClassVar[tuple[str, ...]] = ("unlabeled", "labeled")

    def read(
        self,
        name: str,
        one: LocatedSetConfig,
        log: ProblemLog,
        *,
        settings: DataSection[LocatedSetConfig] | None,
        generated: Path,
        decode_images: bool,
    ) -> tuple[LocatedTable, str]:
        """Return the usable images of a set, and its format."""
        own = settings if isinstance(settings, LocatedDataConfig) else None
        on_several = "error" if own is None else own.on_several_classes
        table, format = read_located(one, log, on_several=on_several, generated=generated)
        if own is not None:
            table = table.with_images(replace(table.images, gray16_range=own.views.gray16_range))
        table = usable(
            table,
            one.path,
            log,
            is_measured=name in MEASURED,
            decode_images=decode_images,
            on_bad_image="error" if own is None else own.on_bad_image,
        )
        if name in ("val", "test") and len(table) and not table.has_boxes.any():
            fix = "fine for a look at the classifier"
            log.warn("no-boxes", one.path, "", f"the {name} set has no box: only classes can be measured", fix)
        return table, format

    def renumbered(
        self, table: LocatedTable, class_names: tuple[str, ...], name: str, path: str, log: ProblemLog
    ) -> LocatedTable:
        """Return a set with the class numbers of `class_names`; images of other classes are errors."""
        known = np.isin(np.array(table.class_names, dtype=object), class_names)
        kept = known[table.images.labels]
        images = renumbered(table.images, class_names, path, log)
        return table.take(np.flatnonzero(kept)).with_images(images)

    def report_classes(self, table: LocatedTable, name: str, path: str, log: ProblemLog) -> None:
        """Report classes without images, too few classes, and classes of one image."""
        report_missing_classes("given" if name == "data" else name, table.images, path, log)
        if name != "labeled":
            return
        if len(table.class_names) < 2:
            message = f"the labelled set has {plural(len(table.class_names), 'class')}"
            log.error(
                "one-class", path, "", message, "attention comes from telling classes apart: it needs two or more"
            )
        counts = table.images.images_per_class()
        lonely = [repr(each) for each, count in zip(table.class_names, counts, strict=True) if count == 1]
        if lonely:
            message = f"there is one image of class {some(lonely)}"
            log.warn("class-of-one", path, "", message, "the classifier will know the picture, not the class")

    def is_barren(self, table: LocatedTable) -> bool:
        """Return whether there is no label to learn from."""
        return not (table.images.labels != NO_LABEL).any()

    def classes_of(self, table: LocatedTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return rows and labels of the images that have one."""
        rows = np.flatnonzero(table.images.labels != NO_LABEL)
        return rows, table.images.labels[rows]

    def ids(self, table: LocatedTable) -> Sequence[str]:
        """Return all image ids, in row order."""
        return list(table.images.ids.to_pylist())

    def choose_rows(self, config: DataSection[LocatedSetConfig], table: LocatedTable) -> NDArray[np.int64]:
        """Return the rows that keep their labels, ascending."""
        assert isinstance(config, LocatedDataConfig)
        return choose_rows(config, table.images)

    def fingerprint(self, table: LocatedTable) -> str:
        """Name the images and their labels."""
        return fingerprint(table.images)

    def hidden_and_bare(self, table: LocatedTable) -> tuple[LocatedTable | None, LocatedTable]:
        """Return the boxes, if there are any, and the images with their classes alone.

        Pixels are not stored a second time: take them from the images.
        """
        hidden = table.with_images(table.images.without_pixels()) if len(table.boxes) else None
        return hidden, table.without_boxes()

    def write(self, path: Path, table: LocatedTable) -> None:
        """Write an index file."""
        write_located(path, table)

    def summarise(self, name: str, path: str, format: str, table: LocatedTable, *, look: bool) -> LocatedSummary:
        """Count images, classes and boxes."""
        return summarise(name, path, format, table, look=look)

    def prepare(self, config: DataSection[LocatedSetConfig], folder: Path) -> PreparedSets[LocatedIndex]:
        """Do as every family, and note the mean training box, which every figure is shown beside."""
        prepared = super().prepare(config, folder)
        mean = mean_box(prepared.labeled, self.open_hidden(folder))
        write_text(folder / MEAN_BOX, json.dumps({"mean_box": mean}))
        return prepared


def mean_box(images: LocatedIndex, hidden: LocatedIndex | None) -> list[float] | None:
    """Return the mean of the true boxes of training images, xyxy in shares of their images; None: nothing is known.

    Of images with several boxes the mean of these counts.
    """
    if hidden is None or not hidden.num_boxes:
        return None
    found = []
    for row in evenly(len(images), MEAN_OF):
        boxes = hidden.boxes_at(row)
        try:
            height, width = images.size_at(row)
        except DataError:  # of a damaged file, which the loader meets
            continue
        if len(boxes):
            found.append(boxes.mean(axis=0) / [width, height, width, height])
    values = np.array(found)
    values = values[np.isfinite(values).all(axis=1)] if len(found) else values
    return [float(value) for value in values.mean(axis=0)] if len(values) else None


def read_mean_box(index: LocatedIndex) -> tuple[float, ...] | None:
    """Return the mean training box of the run that an index file belongs to; None where none is known."""
    for folder in (index.path.parent, index.path.parent.parent):
        try:
            found = json.loads((folder / MEAN_BOX).read_bytes())["mean_box"]
            return None if found is None else (*map(float, found),)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / MEAN_BOX}: damaged ({error}); prepare the data again") from None
    return None


LOCATED = LocatedData()
PreparedLocated = PreparedSets[LocatedIndex]
