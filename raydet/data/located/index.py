"""The index of a `LocatedTable`: one memory-mapped file that all processes share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from raydet.data.bad_images import explaining_damage
from raydet.data.classes import index as images
from raydet.data.decode import image_size
from raydet.data.located.table import Floats, LocatedTable
from raydet.data.mapped import IndexKind, MappedIndex, flat, stored_root, write_index_file
from raydet.errors import DataError

_KIND = IndexKind(
    name="index of located images",
    key="raydet-located",
    format=1,
    columns={**images.ImageIndex.kind.columns, "boxes": pa.large_list(pa.float64())},  # four numbers a box: xyxy
)


def write_located(path: Path, table: LocatedTable) -> None:
    """Write a table as an index file: aside first, then renamed, so that no reader ever sees half of it."""
    own = table.images
    about = {
        "class_names": list(own.class_names),
        "root": None if own.root is None else stored_root(own.root, path),
        "origins": list(own.origins),
        "gray16_range": list(own.gray16_range),
    }
    boxes = pa.LargeListArray.from_arrays(pa.array(table.first * 4), pa.array(table.boxes.reshape(-1)))
    write_index_file(path, _KIND, [*images.columns_of(own), boxes], about)


class LocatedIndex(MappedIndex):
    """Images with one class each, and their boxes; none where these are hidden from training."""

    kind = _KIND

    def __init__(self, path: Path, batch: Any, about: dict[str, Any]) -> None:
        """Wrap a checked record batch; use `open`."""
        super().__init__(path, batch, about)
        self._images = images.table_of(batch, about, path)
        boxes = batch.column("boxes")
        self._first: NDArray[np.int64] = flat(boxes.offsets) // 4
        self._boxes: Floats = flat(boxes.values).reshape(-1, 4)

    def label_at(self, row: int) -> int:
        """Return the 0-based class of a row."""
        return int(self._images.labels[self.at(row)])

    def labels(self) -> NDArray[np.int64]:
        """Return the 0-based classes `[D]`; read-only."""
        return self._images.labels if self.seen_as is None else self._images.labels[self.seen_as]

    def file_at(self, row: int) -> Path | None:
        """Return the file of a row; None where its content is in the index."""
        return self._images.file_at(row)

    def boxes_at(self, row: int) -> Floats:
        """Return the boxes `[n, 4]` of an image, xyxy in its pixels after EXIF rotation."""
        row = self.at(row)
        return self._boxes[self._first[row] : self._first[row + 1]].copy()

    @property
    def num_boxes(self) -> int:
        """Return how many boxes there are."""
        return len(self._boxes)

    def pixels_at(self, row: int) -> Tensor:
        """Decode an image: uint8 `[3, H, W]` RGB. Raises DataError that names file and row where it cannot."""
        with explaining_damage():
            return self._images.pixels_at(self.at(row))

    def complaint_at(self, row: int) -> str:
        """Return what is wrong with the image that is seen at a row, '' where nothing is."""
        try:
            self._images.pixels_at(self.at(row))
        except DataError as error:
            return str(error)
        return ""

    def size_at(self, row: int) -> tuple[int, int]:
        """Return `(height, width)` after EXIF rotation. Raises DataError where the image cannot be read."""
        file = self._images.file_at(self.at(row))
        if file is not None:
            return image_size(file)
        height, width = self.pixels_at(row).shape[1:]
        return int(height), int(width)

    def name_at(self, row: int) -> str:
        """Return what messages call an image: its file, or `FILE, row 17` (counted from 0)."""
        return self._images.name_at(row)

    def images_per_class(self) -> NDArray[np.int64]:
        """Return the number of images `[num_classes]` of each class."""
        return self._images.images_per_class()
