"""The index of a `LocatedTable`: one memory-mapped file that all processes share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydet.data.classes.index import ImageIndex, about_of, columns_of
from raydet.data.decode import image_size
from raydet.data.located.table import Floats, LocatedTable
from raydet.data.mapped import IndexKind, flat, write_index_file

_KIND = IndexKind(
    name="index of located images",
    key="raydet-located",
    format=1,
    columns={**ImageIndex.kind.columns, "boxes": pa.large_list(pa.float64())},  # four numbers a box: xyxy
)


def write_located(path: Path, table: LocatedTable) -> None:
    """Write a table as an index file: aside first, then renamed, so that no reader ever sees half of it."""
    boxes = pa.LargeListArray.from_arrays(pa.array(table.first * 4), pa.array(table.boxes.reshape(-1)))
    write_index_file(path, _KIND, [*columns_of(table.images), boxes], about_of(table.images, path))


class LocatedIndex(ImageIndex):
    """Images with one class each, and their boxes; none where these are hidden from training."""

    kind = _KIND

    def __init__(self, path: Path, batch: Any, about: dict[str, Any]) -> None:
        """Wrap a checked record batch; use `open`."""
        super().__init__(path, batch, about)
        boxes = batch.column("boxes")
        self._first: NDArray[np.int64] = flat(boxes.offsets) // 4
        self._boxes: Floats = flat(boxes.values).reshape(-1, 4)

    def boxes_at(self, row: int) -> Floats:
        """Return the boxes `[n, 4]` of an image, xyxy in its pixels after EXIF rotation."""
        row = self.at(row)
        return self._boxes[self._first[row] : self._first[row + 1]].copy()

    @property
    def num_boxes(self) -> int:
        """Return how many boxes there are."""
        return len(self._boxes)

    def size_at(self, row: int) -> tuple[int, int]:
        """Return `(height, width)` after EXIF rotation. Raises DataError where the image cannot be read."""
        file = self._table.file_at(self.at(row))
        if file is not None:
            return image_size(file)
        height, width = self.pixels_at(row).shape[1:]
        return int(height), int(width)
