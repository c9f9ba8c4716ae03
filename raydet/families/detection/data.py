"""Images with boxes, as a `DataFamily`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raydet.config.base import DataSection
from raydet.config.box_data import DataConfig, DatasetConfig
from raydet.data.boxes.class_names import renumbered, report_empty_classes
from raydet.data.boxes.family import BoxFamily
from raydet.data.boxes.formats.detect import read_source
from raydet.data.boxes.index import DatasetIndex
from raydet.data.boxes.rules import usable
from raydet.data.boxes.source import Table
from raydet.data.boxes.splits import choose_rows, thinned
from raydet.data.boxes.summary import SetSummary, summarise
from raydet.data.prepared import PreparedSets
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.text import plural


class BoxData(BoxFamily):
    """Images with boxes."""

    kind: ClassVar[str] = "detection"

    def read(
        self,
        name: str,
        one: DatasetConfig,
        log: ProblemLog,
        *,
        settings: DataSection[DatasetConfig] | None,
        generated: Path,
        decode_images: bool,
    ) -> tuple[Table, str]:
        """Return the usable images and boxes of a set, and its format."""
        wants_masks = isinstance(settings, DataConfig) and settings.masks and name not in self.hides_of
        source = read_source(one, log, generated, role=name, masks=wants_masks)
        if not isinstance(settings, DataConfig):
            return usable(source, "error", log, decode_images=decode_images), source.format
        table = usable(
            source,
            settings.on_bad_box,
            log,
            decode_images=decode_images,
            on_bad_image=settings.on_bad_image,
            gray16_range=settings.views.gray16_range,
        )
        return table, source.format

    def renumbered(self, table: Table, class_names: tuple[str, ...], name: str, path: str, log: ProblemLog) -> Table:
        """Return a set with the class numbers of `class_names`; boxes of other classes are errors."""
        return renumbered(table, class_names, path, log)

    def report_classes(self, table: Table, name: str, path: str, log: ProblemLog) -> None:
        """Report sets and classes without boxes, and boxes that do not count."""
        report_empty_classes(table, name, path, log)

    def is_barren(self, table: Table) -> bool:
        """Return whether there is no box to learn from."""
        return int(table.usable_per_class().sum()) == 0

    def choose_rows(self, config: DataSection[DatasetConfig], table: Table) -> NDArray[np.int64]:
        """Return the rows that keep their boxes, ascending."""
        assert isinstance(config, DataConfig)
        return choose_rows(config, table)

    def classes_of(self, table: Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return rows and classes of the boxes to train on."""
        return table.box_rows()[~table.crowd], table.classes[~table.crowd]

    def thinned(self, config: DataSection[DatasetConfig], table: Table) -> Table:
        """Make the minority classes rare."""
        assert isinstance(config, DataConfig)
        found = thinned(config, table)
        if self.is_barren(found) and not self.is_barren(table):
            kept = config.split.keep_images_per_minority
            raise DataError(
                f"data.split.keep_images_per_minority={kept} leaves no box in {plural(len(table), 'labelled image')}; "
                f"raise it, or name fewer minority_classes"
            )
        return found

    def summarise(self, name: str, path: str, format: str, table: Table, *, look: bool) -> SetSummary:
        """Count images and boxes."""
        return summarise(name, path, format, table)


BOXES = BoxData()
PreparedBoxes = PreparedSets[DatasetIndex]
