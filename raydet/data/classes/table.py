"""Images with one label each: columns, not objects, so that a million images fit in memory.

An image is a file below `root`, or its content is in the table: encoded (JPEG, PNG, ...) or as raw pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydet.data.decode import FULL_RANGE, decode, decode_bytes
from raydet.data.paths import resolve_inside
from raydet.errors import DataError

NO_LABEL = -1
Part = tuple[str, int]  # a file, and how many images of the table come from it, one after the other


@dataclass(frozen=True, slots=True, eq=False)
class ImageTable:
    """D images. Files are named relative to `root`; content is held in one block for all images."""

    class_names: tuple[str, ...]
    ids: Any  # Arrow large_utf8 [D]
    labels: NDArray[np.int64]  # [D] 0-based, NO_LABEL where there is none
    files: Any  # Arrow large_utf8 [D], "" where the content is here
    content: Any  # Arrow large_binary [D]: encoded, or raw uint8 [C, H, W]; b"" where the image is a file
    shapes: NDArray[np.int32]  # [D, 3] channels (1 or 3), height, width of raw content, else 0
    origins: tuple[str, ...]  # the files that content was read from
    origin: NDArray[np.int32]  # [D] position of each image's file in `origins`
    place: NDArray[np.int64]  # [D] its row there, counted from 0
    root: Path | None = None  # resolved
    gray16_range: tuple[int, int] = FULL_RANGE  # the values of 16-bit pictures that become 0 to 255

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def holds_files(self) -> bool:
        """Return whether the images lie in files of their own."""
        return self.root is not None

    def take(self, rows: NDArray[np.int64]) -> ImageTable:
        """Return the images `rows`, in that order."""
        picked = pa.array(rows, pa.int64())
        return replace(
            self,
            ids=self.ids.take(picked),
            labels=self.labels[rows],
            files=self.files.take(picked),
            content=self.content.take(picked),
            shapes=self.shapes[rows],
            origin=self.origin[rows],
            place=self.place[rows],
        )

    def with_labels(self, labels: NDArray[np.int64], class_names: tuple[str, ...]) -> ImageTable:
        """Return the same images with other labels `[D]`."""
        return replace(self, labels=labels, class_names=class_names)

    def without_labels(self) -> ImageTable:
        """Return the same images with nothing known about them."""
        return replace(self, labels=np.full(len(self), NO_LABEL, dtype=np.int64))

    def without_pixels(self) -> ImageTable:
        """Return the same ids and labels; pixels that are not in files are gone."""
        return replace(self, content=_repeated(b"", len(self), pa.large_binary()), shapes=np.zeros_like(self.shapes))

    def images_per_class(self) -> NDArray[np.int64]:
        """Return the number of images `[num_classes]` of each class."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.class_names))

    def id_at(self, row: int) -> str:
        """Return the image id of a row."""
        return str(self.ids[row].as_py())

    def name_at(self, row: int) -> str:
        """Return what messages call an image: its file, or `FILE, row 17` (counted from 0)."""
        if file := self.files[row].as_py():
            return f"{self.root}/{file}"
        return f"{self.origins[self.origin[row]]}, row {self.place[row]}"

    def file_at(self, row: int) -> Path | None:
        """Return the file of a row; None where its content is in the table. Raises DataError outside of `root`."""
        name = self.files[row].as_py()
        return resolve_inside(self.root, name) if name and self.root is not None else None

    def bytes_at(self, row: int) -> memoryview:
        """Return the content of a row that is in the table."""
        return memoryview(self.content[row].as_buffer())

    def num_bytes_at(self, row: int) -> int:
        """Return the size of a row's file or content. Raises OSError where a file cannot be asked."""
        file = self.file_at(row)
        return self.bytes_at(row).nbytes if file is None else os.stat(file).st_size

    def pixels_at(self, row: int) -> Tensor:
        """Decode an image: uint8 `[3, H, W]` RGB, gray as three equal channels. Raises DataError that names it."""
        if (file := self.file_at(row)) is not None:
            return decode(file, self.gray16_range)
        buffer = self.content[row].as_buffer()
        if not self.shapes[row].any():
            if not buffer.size:
                raise DataError(f"{self.name_at(row)}: no pixels are stored with this label")
            return decode_bytes(buffer.to_pybytes(), self.name_at(row), self.gray16_range)
        shape = tuple(self.shapes[row].tolist())
        raw = np.frombuffer(buffer, dtype=np.uint8).reshape(shape)
        return torch.from_numpy(np.repeat(raw, 3, axis=0) if shape[0] == 1 else raw.copy())


def files_table(
    root: Path, files: Sequence[str], labels: NDArray[np.int64], class_names: tuple[str, ...]
) -> ImageTable:
    """Return images that stay files below the resolved folder `root`; their names are their ids."""
    names = pa.array(files, pa.large_utf8())
    count = len(files)
    return ImageTable(
        class_names=class_names,
        ids=names,
        labels=labels,
        files=names,
        content=_repeated(b"", count, pa.large_binary()),
        shapes=np.zeros((count, 3), dtype=np.int32),
        origins=(str(root),),
        origin=np.zeros(count, dtype=np.int32),
        place=np.arange(count, dtype=np.int64),
        root=root,
    )


def encoded_table(
    ids: Any, content: Any, labels: NDArray[np.int64], class_names: tuple[str, ...], parts: Sequence[Part]
) -> ImageTable:
    """Return encoded images: `ids` Arrow large_utf8 `[D]`, `content` Arrow large_binary `[D]`, both without nulls."""
    return _content_table(ids, content, np.zeros((len(labels), 3), dtype=np.int32), labels, class_names, parts)


def raw_table(
    ids: Sequence[str],
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    parts: Sequence[Part],
) -> ImageTable:
    """Return images of one size from their pixels `[D, C, H, W]` (C: 1 or 3), which are not copied where contiguous."""
    count, shape = len(pixels), np.array(pixels.shape[1:], dtype=np.int32)
    assert shape[0] in (1, 3), shape
    flat = np.ascontiguousarray(pixels)
    offsets = np.arange(count + 1, dtype=np.int64) * int(shape.prod(dtype=np.int64))
    blocks = [None, pa.py_buffer(offsets), pa.py_buffer(flat)]
    content = pa.Array.from_buffers(pa.large_binary(), count, blocks)
    return _content_table(
        pa.array(ids, pa.large_utf8()), content, np.tile(shape, (count, 1)), labels, class_names, parts
    )


def _content_table(
    ids: Any,
    content: Any,
    shapes: NDArray[np.int32],
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    parts: Sequence[Part],
) -> ImageTable:
    counts = [count for _, count in parts]
    assert sum(counts) == len(ids) == len(content) == len(labels), (counts, len(ids), len(content), len(labels))
    return ImageTable(
        class_names=class_names,
        ids=ids,
        labels=labels,
        files=_repeated("", len(labels), pa.large_utf8()),
        content=content,
        shapes=shapes,
        origins=tuple(name for name, _ in parts),
        origin=np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        place=np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(count, dtype=np.int64) for count in counts)]),
    )


def _repeated(value: str | bytes, count: int, type: Any) -> Any:
    return pa.repeat(pa.scalar(value, type), count)
