"""What families share whose images may have boxes, as a `DataFamily`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raydet.config.box_data import DatasetConfig
from raydet.data.boxes.fix import fix_dataset
from raydet.data.boxes.index import DatasetIndex, write_index
from raydet.data.boxes.source import Table
from raydet.data.boxes.splits import fingerprint
from raydet.data.check import FixPolicy, FixResult
from raydet.data.family import DataFamily


class BoxFamily(DataFamily[DatasetConfig, Table, DatasetIndex]):
    """How tables of boxes are named, hidden, written and mended."""

    set_config = DatasetConfig
    index = DatasetIndex
    fingerprint = staticmethod(fingerprint)
    write = staticmethod(write_index)

    def ids(self, table: Table) -> Sequence[str]:
        """Return all image ids, in row order."""
        return table.ids

    def hidden_and_bare(self, table: Table) -> tuple[Table | None, Table]:
        """Return the true boxes, if there are any, and the images without them."""
        return table if len(table.classes) else None, table.without_boxes()

    def fix(self, one: DatasetConfig, policy: FixPolicy, out: Path) -> FixResult:
        """Write a COCO JSON of what is usable: bad boxes are dropped or clipped."""
        return fix_dataset(one, policy, out)
