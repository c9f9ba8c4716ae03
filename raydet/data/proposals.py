"""Boxes without classes, keyed by image id: the file that `raydet proposals` writes and all runs and trials share.

One memory-mapped Arrow file (see `raydet.data.mapped`): processes that open it map the same pages. An id is the
image's name relative to the image root, with `/`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydet.data.mapped import IndexKind, MappedIndex, flat, write_index_file
from raydet.data.threads import in_threads
from raydet.errors import DataError
from raydet.text import plural

FILE = "proposals.arrow"
_SHOWN = 3  # images that a message names
_MISSING = -1  # bytes of a file that is not there


class Fallback(IntEnum):
    """Which filters the boxes of an image have passed (`raydet.proposals.filters`)."""

    NONE = 0  # all
    ASPECT = 1  # no box passed all of them: those of a fit aspect ratio and sides of 32 pixels or more
    SIDE = 2  # none of those either: sides of 32 pixels or more
    IMAGE = 3  # none at all: the whole image is the one box


class OtherImages(DataError):
    """The proposals are not those of these images."""


class Proposals(MappedIndex):
    """Read access to a proposals file; pickles as its path."""

    kind = IndexKind(
        "proposals file",
        "raydet_proposals",
        1,
        {
            "id": pa.large_string(),
            "width": pa.int32(),
            "height": pa.int32(),
            "boxes": pa.large_list(pa.field("item", pa.float32(), nullable=False)),
            "fallback": pa.int8(),
        },
        {"num_bytes": pa.int64()},  # of the images' files; files of older versions do not have it
        missing="make it with raydet proposals IMAGES --out DIR",
        remedy="delete it and run the same raydet proposals command again",
    )

    def __init__(self, path: Path, batch: Any, about: dict[str, Any]) -> None:
        super().__init__(path, batch, about)
        self.settings: dict[str, Any] = about["settings"]
        """All that the boxes depend on, by dotted key."""
        self._width, self._height = flat(batch.column("width")), flat(batch.column("height"))
        self._fallback = flat(batch.column("fallback"))
        self._num_bytes = flat(batch.column("num_bytes")) if "num_bytes" in batch.schema.names else None
        boxes = batch.column("boxes")
        self._offsets, self._values = flat(boxes.offsets), flat(boxes.values)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Map a proposals file, or the one in a folder of `raydet proposals`.

        Raises DataError where it is missing, not finished, damaged, or of another version.
        """
        file = Path(path)
        if file.is_dir():
            if not (file / FILE).exists() and (file / "proposals.json").exists():
                raise DataError(f"{file}: not finished; run the same raydet proposals command again, it goes on")
            file = file / FILE
        return super().open(file)

    def size_at(self, row: int) -> tuple[int, int]:
        """Return `(height, width)` of the image at a row, in pixels after EXIF rotation."""
        return int(self._height[row]), int(self._width[row])

    def boxes_at(self, row: int) -> NDArray[np.float32]:
        """Return the boxes `[P, 4]` of a row, P >= 1: x1 y1 x2 y2 in pixels of the original image, read-only.

        A box's id is its place counted from 1.
        """
        start, end = self._offsets[row : row + 2]
        boxes: NDArray[np.float32] = self._values[start:end].reshape(-1, 4)
        return boxes

    def fallback_at(self, row: int) -> int:
        """Return which filters the boxes have passed: 0 all, 1 to 3 less and less (docs/proposals.md)."""
        return int(self._fallback[row])

    def require_files(self, rows: Sequence[int], file_of: Callable[[int], Path]) -> None:
        """Raise OtherImages, naming some, where `file_of(place)` has not as many bytes as the file whose proposals
        `rows[place]` holds.

        So a picture is told from another one of the same name and size. Each file is asked for its length, none is
        read. Proposals of older versions do not know lengths: nothing is looked at then.
        """
        if self._num_bytes is None:
            return
        there = self._num_bytes[np.asarray(rows, np.int64)].tolist()
        here = in_threads(lambda place: _length(file_of(place)), range(len(rows)))
        other = [
            f"{str(file_of(place))!r} has {length:,} bytes, the file that was searched {searched:,}"
            for place, (searched, length) in enumerate(zip(there, here, strict=True))
            if length not in (searched, _MISSING)  # a missing file is told of where it is read
        ]
        self._refuse(other)

    def _refuse(self, other: Sequence[str]) -> None:
        if other:
            raise OtherImages(
                f"{self.path}: proposals of other images: {'; '.join(other[:_SHOWN])}"
                f"{f' and {len(other) - _SHOWN:,} more' if len(other) > _SHOWN else ''}. Run raydet proposals on the "
                f"images as they are, into another --out"
            )

    def require(self, settings: Mapping[str, Any]) -> None:
        """Raise DataError, with what differs, unless the proposals were made with these settings (a selection)."""
        changed = [
            f"{key}: {self.settings.get(key)!r} there, {value!r} wanted"
            for key, value in settings.items()
            if self.settings.get(key) != value
        ]
        if changed:
            raise DataError(
                f"{self.path}: proposals made with other settings:\n  "
                + "\n  ".join(changed)
                + "\nmake them anew with raydet proposals, into another --out"
            )

    def rows_for(self, image_ids: Sequence[str], sizes: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
        """Return the rows `[N]` of images, given their ids and `(height, width)`.

        Raises OtherImages, naming some, where there are images without proposals, or proposals of another size.
        """
        rows = np.full(len(image_ids), -1, np.int64)
        missing, other = [], []
        for place, (image_id, size) in enumerate(zip(image_ids, sizes, strict=True)):
            try:
                row = rows[place] = self.position(image_id)
            except KeyError:
                missing.append(image_id)
                continue
            if self.size_at(row) != tuple(size):
                (h, w), (height, width) = self.size_at(row), size
                other.append(f"{image_id!r}: proposals for {w} x {h} pixels, the image is {width} x {height}")
        if missing:
            some = ", ".join(map(repr, missing[:_SHOWN]))
            raise OtherImages(
                f"{self.path}: no proposals of {len(missing):,} of {plural(len(image_ids), 'image')} ({some}"
                f"{', ...' if len(missing) > _SHOWN else ''}); it has {plural(len(self), 'image')} of "
                f"{self.settings.get('images_root')} such as {self.id_at(0)!r}. Those that could not be read are in "
                f"skipped.csv beside it; for other images run raydet proposals into another --out"
            )
        self._refuse(other)
        return rows


def _length(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return _MISSING


def grid_boxes(
    width: int,
    height: int,
    sizes: Sequence[float] = (0.3, 0.5, 0.75),
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    step: float = 0.5,
) -> NDArray[np.float64]:
    """Return the same boxes `[P, 4]` relative to every image: a grid of places at some sizes and shapes.

    `sizes` are sqrt(w h) / sqrt(W H), `ratios` w / h, `step` is from box to box in sides of the box.
    """
    found = []
    for size in sizes:
        for ratio in ratios:
            side = size * (width * height) ** 0.5
            w, h = min(side * ratio**0.5, width), min(side / ratio**0.5, height)
            lefts = np.linspace(0.0, width - w, 1 + int((width - w) / (step * w)))
            tops = np.linspace(0.0, height - h, 1 + int((height - h) / (step * h)))
            x, y = (axis.ravel() for axis in np.meshgrid(lefts, tops))
            found.append(np.stack([x, y, x + w, y + h], axis=1))
    return np.concatenate(found)


def write_proposals(file: Path, tables: Iterable[pa.Table], *, settings: Mapping[str, Any], listing: str) -> None:
    """Write a proposals file from tables with the columns image, width, height, boxes (flat lists), fallback and
    num_bytes. Where an older version did not write down the length of one file, the column is left out.

    All boxes are in memory once: 16 bytes each.
    """
    table = pa.concat_tables(itertools.chain(tables))
    types = {**Proposals.kind.columns, **(Proposals.kind.extra if not table["num_bytes"].null_count else {})}
    columns = [table["image" if name == "id" else name].cast(type_).combine_chunks() for name, type_ in types.items()]
    about = {"class_names": [], "settings": dict(settings), "listing": listing}
    write_index_file(file, Proposals.kind, columns, about)
