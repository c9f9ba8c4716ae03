"""The image index: what an `ImageTable` holds, in one memory-mapped file that all processes share.

Names and labels, and the pixels of sets that are not files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from raydet.data.bad_images import explaining_damage
from raydet.data.classes.table import ImageTable
from raydet.data.decode import FULL_RANGE
from raydet.data.mapped import IndexKind, MappedIndex, flat, opened_root, stored_root, write_index_file
from raydet.errors import DataError

_KIND = IndexKind(
    name="image index",
    key="raydet-images",
    format=2,
    columns={
        "id": pa.large_utf8(),
        "label": pa.int64(),
        "file": pa.large_utf8(),
        "content": pa.large_binary(),
        "channels": pa.int32(),
        "height": pa.int32(),
        "width": pa.int32(),
        "origin": pa.int32(),
        "place": pa.int64(),
    },
)


def write_images(path: Path, table: ImageTable) -> None:
    """Write a table as an index file: aside first, then renamed, so that no reader ever sees half of it."""
    write_index_file(path, _KIND, columns_of(table), about_of(table, path))


class ImageIndex(MappedIndex):
    """Images with one label each."""

    kind = _KIND

    def __init__(self, path: Path, batch: Any, about: dict[str, Any]) -> None:
        """Wrap a checked record batch; use `open`."""
        super().__init__(path, batch, about)
        self._table = table_of(batch, about, path)

    def label_at(self, row: int) -> int:
        """Return the 0-based class of a row, -1 where there is none."""
        return int(self._table.labels[self.at(row)])

    def labels(self) -> NDArray[np.int64]:
        """Return the 0-based classes `[D]`, -1 where there is none; read-only."""
        return self._table.labels if self.seen_as is None else self._table.labels[self.seen_as]

    def file_at(self, row: int) -> Path | None:
        """Return the file of a row; None where its content is in the index."""
        return self._table.file_at(row)

    def pixels_at(self, row: int) -> Tensor:
        """Decode an image: uint8 `[3, H, W]` RGB. Raises DataError that names file and row where it cannot."""
        with explaining_damage():
            return self._table.pixels_at(self.at(row))

    def complaint_at(self, row: int) -> str:
        """Return what is wrong with the image that is seen at a row, '' where nothing is."""
        try:
            self._table.pixels_at(self.at(row))
        except DataError as error:
            return str(error)
        return ""

    def name_at(self, row: int) -> str:
        """Return what messages call an image: its file, or `FILE, row 17` (counted from 0)."""
        return self._table.name_at(self.at(row))

    def images_per_class(self) -> NDArray[np.int64]:
        """Return the number of labelled images `[num_classes]` of each class."""
        return self._table.images_per_class()


def columns_of(table: ImageTable) -> list[Any]:
    """Return the columns of an index file, in order."""
    return [
        table.ids,
        pa.array(table.labels, pa.int64()),
        table.files,
        table.content,
        *(pa.array(table.shapes[:, number], pa.int32()) for number in range(3)),
        pa.array(table.origin, pa.int32()),
        pa.array(table.place, pa.int64()),
    ]


def about_of(table: ImageTable, path: Path) -> dict[str, Any]:
    """Return the description of a table in the index file `path`."""
    return {
        "class_names": list(table.class_names),
        "root": None if table.root is None else stored_root(table.root, path),
        "origins": list(table.origins),
        "gray16_range": list(table.gray16_range),
    }


def table_of(batch: Any, about: dict[str, Any], path: Path) -> ImageTable:
    """Return the table that the columns and the description of the index file `path` hold."""
    low, high = about.get("gray16_range", FULL_RANGE)  # older files do not say
    return ImageTable(
        class_names=tuple(about["class_names"]),
        ids=batch.column("id"),
        labels=flat(batch.column("label")),
        files=batch.column("file"),
        content=batch.column("content"),
        shapes=np.stack([flat(batch.column(side)) for side in ("channels", "height", "width")], axis=1),
        origins=tuple(about["origins"]),
        origin=flat(batch.column("origin")),
        place=flat(batch.column("place")),
        root=None if about["root"] is None else opened_root(about["root"], path),
        gray16_range=(int(low), int(high)),
    )
