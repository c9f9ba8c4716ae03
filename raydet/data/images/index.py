"""The image index: one memory-mapped Arrow IPC file that all processes share.

It holds what an `ImageTable` holds: names and labels, and the pixels of sets that are not files. Opening checks a
digest of the whole, so that a half-written or damaged one is never used; nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from raydet.data.files import replacing
from raydet.data.images.table import ImageTable
from raydet.data.index import _flat, _hash
from raydet.errors import DataError

_FORMAT = 1
_COLUMNS = {
    "id": pa.large_utf8(),
    "label": pa.int64(),
    "file": pa.large_utf8(),
    "content": pa.large_binary(),
    "channels": pa.int32(),
    "height": pa.int32(),
    "width": pa.int32(),
    "origin": pa.int32(),
    "place": pa.int64(),
    "hash_sorted": pa.uint64(),  # hashes of all ids in ascending order, and
    "hash_row": pa.int64(),  # the rows they belong to: lookup by id without a dict
}


def write_images(path: Path, table: ImageTable) -> None:
    """Write a table as an index file: aside first, then renamed, so that no reader ever sees half of it."""
    batch = _batch(table)
    about = {
        "format": _FORMAT,
        "class_names": list(table.class_names),
        "root": None if table.root is None else os.fspath(table.root),
        "origins": list(table.origins),
    }
    metadata = {"raydet-images": json.dumps(about)}
    metadata["digest"] = _digest(metadata["raydet-images"].encode(), batch)
    batch = batch.replace_schema_metadata(metadata)
    with replacing(path) as stream, pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)


class ImageIndex:
    """Read access to an index file. Pickles as its path; every process maps the same pages."""

    def __init__(self, path: Path, batch: Any, about: dict[str, Any]) -> None:
        """Wrap a checked record batch; use `open`."""
        self.path = path
        self.class_names: tuple[str, ...] = tuple(about["class_names"])
        self._table = _table(batch, about)
        self._hash_sorted: NDArray[np.uint64] = _flat(batch.column("hash_sorted"))
        self._hash_row: NDArray[np.int64] = _flat(batch.column("hash_row"))

    @staticmethod
    def open(path: str | Path) -> ImageIndex:
        """Map an index file. Raises DataError where it is missing, damaged, or of another version."""
        file = Path(path)
        remedy = "delete it and prepare the data again"
        try:
            with pa.ipc.open_file(pa.memory_map(os.fspath(file))) as reader:
                if reader.num_record_batches != 1:
                    raise DataError(f"{file}: not a raydet image index; {remedy}")
                batch = reader.get_batch(0)
            batch.validate(full=True)
            columns = [(field.name, field.type) for field in batch.schema]
        except FileNotFoundError:
            raise DataError(f"{file}: no such image index; prepare the data first") from None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = (str(error).splitlines() or ["unreadable"])[0]
            raise DataError(f"{file}: damaged or not an image index ({reason}); {remedy}") from None
        metadata = batch.schema.metadata or {}
        text = metadata.get(b"raydet-images")
        if text is None or columns != list(_COLUMNS.items()) or any(column.null_count for column in batch.columns):
            raise DataError(f"{file}: not a raydet image index; {remedy}")
        if _digest(text, batch).encode() != metadata.get(b"digest"):
            raise DataError(f"{file}: damaged (its content does not match its digest); {remedy}")
        about = json.loads(text)
        if about["format"] != _FORMAT:
            raise DataError(f"{file}: index format {about['format']}, this raydet reads {_FORMAT}; {remedy}")
        return ImageIndex(file, batch, about)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return ImageIndex.open, (os.fspath(self.path.absolute()),)

    def __len__(self) -> int:
        return len(self._table)

    def id_at(self, row: int) -> str:
        """Return the image id of a row."""
        return self._table.id_at(row)

    def ids(self) -> list[str]:
        """Return all image ids, in row order."""
        return list(self._table.ids.to_pylist())

    def position(self, image_id: str) -> int:
        """Return the row of an image id, in O(log n) and without a table in memory. Raises KeyError."""
        key = _hash(image_id)
        place = int(np.searchsorted(self._hash_sorted, key))
        while place < len(self) and self._hash_sorted[place] == key:  # more than one turn: a collision
            row = int(self._hash_row[place])
            if self.id_at(row) == image_id:
                return row
            place += 1
        raise KeyError(f"no image id {image_id!r} in {self.path}")

    def label_at(self, row: int) -> int:
        """Return the 0-based class of a row, -1 where there is none."""
        return int(self._table.labels[row])

    def labels(self) -> NDArray[np.int64]:
        """Return the 0-based classes `[D]`, -1 where there is none; read-only."""
        return self._table.labels

    def pixels_at(self, row: int) -> Tensor:
        """Decode an image: uint8 `[3, H, W]` RGB. Raises DataError that names file and row where it cannot."""
        return self._table.pixels_at(row)

    def name_at(self, row: int) -> str:
        """Return what messages call an image: its file, or `FILE, row 17` (counted from 0)."""
        return self._table.name_at(row)

    def images_per_class(self) -> NDArray[np.int64]:
        """Return the number of labelled images `[num_classes]` of each class."""
        return self._table.images_per_class()


def _batch(table: ImageTable) -> Any:
    hashes = np.array([_hash(image_id) for image_id in table.ids.to_pylist()], dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")
    columns = [
        table.ids,
        pa.array(table.labels, pa.int64()),
        table.files,
        table.content,
        *(pa.array(table.shapes[:, number], pa.int32()) for number in range(3)),
        pa.array(table.origin, pa.int32()),
        pa.array(table.place, pa.int64()),
        pa.array(hashes[order]),
        pa.array(order.astype(np.int64)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(list(_COLUMNS.items())))


def _table(batch: Any, about: dict[str, Any]) -> ImageTable:
    return ImageTable(
        class_names=tuple(about["class_names"]),
        ids=batch.column("id"),
        labels=_flat(batch.column("label")),
        files=batch.column("file"),
        content=batch.column("content"),
        shapes=np.stack([_flat(batch.column(side)) for side in ("channels", "height", "width")], axis=1),
        origins=tuple(about["origins"]),
        origin=_flat(batch.column("origin")),
        place=_flat(batch.column("place")),
        root=None if about["root"] is None else Path(about["root"]),
    )


def _digest(about: bytes, batch: Any) -> str:
    digest = hashlib.blake2b(about, digest_size=16)
    for values in _values(batch):
        digest.update(values.nbytes.to_bytes(8, "little"))
        digest.update(values.data)
    return digest.hexdigest()


def _values(batch: Any) -> Iterator[NDArray[Any]]:
    """Yield what the columns say, whatever spare room their buffers have."""
    for column in batch.columns:
        if not (pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)):
            yield _flat(column)
        elif len(column):
            _, offsets, data = column.buffers()
            ends = np.frombuffer(offsets, np.int64, len(column) + 1, column.offset * 8)
            yield np.diff(ends)
            yield np.frombuffer(data if data is not None else b"", np.uint8)[ends[0] : ends[-1]]
