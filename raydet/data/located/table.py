"""Images with one class each, and their boxes: an `ImageTable` and columns beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet.data.classes.table import ImageTable

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LocatedTable:
    """D images with B boxes, sorted by image."""

    images: ImageTable
    first: NDArray[np.int64]  # [D + 1]: boxes of image i are first[i]:first[i + 1]
    boxes: Floats  # [B, 4] xyxy, half-open, in pixels of the image after EXIF rotation
    declared: NDArray[np.int64] | None = None  # [D, 2] (height, width) by the annotations, 0: not given; None: of none

    def __len__(self) -> int:
        return len(self.images)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, in label order."""
        return self.images.class_names

    @property
    def holds_files(self) -> bool:
        """Return whether the images lie in files of their own."""
        return self.images.holds_files

    @property
    def has_boxes(self) -> NDArray[np.bool_]:
        """Return which images `[D]` have a box."""
        return np.diff(self.first) > 0

    def boxes_at(self, row: int) -> Floats:
        """Return the boxes `[n, 4]` of an image."""
        return self.boxes[self.first[row] : self.first[row + 1]]

    def id_at(self, row: int) -> str:
        """Return the image id of a row."""
        return self.images.id_at(row)

    def name_at(self, row: int) -> str:
        """Return what messages call an image."""
        return self.images.name_at(row)

    def file_at(self, row: int) -> Path | None:
        """Return the file of a row; None where its content is in the table."""
        return self.images.file_at(row)

    def bytes_at(self, row: int) -> memoryview:
        """Return the content of a row that is in the table."""
        return self.images.bytes_at(row)

    def num_bytes_at(self, row: int) -> int:
        """Return the size of a row's file or content. Raises OSError where a file cannot be asked."""
        return self.images.num_bytes_at(row)

    def take(self, rows: NDArray[np.int64]) -> LocatedTable:
        """Return the images `rows`, in that order, with their boxes."""
        counts = np.diff(self.first)[rows]
        first = _offsets(counts)
        picked = np.repeat(self.first[:-1][rows] - first[:-1], counts) + np.arange(first[-1])
        declared = None if self.declared is None else self.declared[rows]
        return LocatedTable(self.images.take(rows), first, self.boxes[picked], declared)

    def with_images(self, images: ImageTable) -> LocatedTable:
        """Return the same boxes for as many images, which know something else of themselves."""
        assert len(images) == len(self), (len(images), len(self))
        return replace(self, images=images)

    def with_boxes(self, kept: NDArray[np.bool_]) -> LocatedTable:
        """Return the same images with only the boxes of a mask `[B]`."""
        counts = np.bincount(self.box_rows()[kept], minlength=len(self))
        return replace(self, first=_offsets(counts), boxes=self.boxes[kept])

    def without_boxes(self) -> LocatedTable:
        """Return the same images and classes, and no box."""
        return self.with_boxes(np.zeros(len(self.boxes), dtype=np.bool_))

    def box_rows(self) -> NDArray[np.int64]:
        """Return the image `[B]` of each box."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))


def located(
    images: ImageTable, boxes: Sequence[Any] | None = None, declared: NDArray[np.int64] | None = None
) -> LocatedTable:
    """Return images with a list of boxes (four numbers xyxy each) per image; None: without any.

    `declared` `[D, 2]`: the images' (height, width) as the annotations give them, 0 where they do not.
    """
    lists = [[]] * len(images) if boxes is None else boxes
    counts = np.array([len(each) for each in lists], dtype=np.int64)
    flat = np.array([box for each in lists for box in each], dtype=np.float64).reshape(-1, 4)
    return LocatedTable(images, _offsets(counts), flat, declared)


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
