"""The annotation index: one memory-mapped Arrow IPC file that all processes share, instead of a list of dicts in each.

A row is an image. Opening checks a digest of the whole file, so that a half-written or damaged one is never used;
nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from raydet.data.files import replacing
from raydet.data.paths import resolve_inside
from raydet.data.source import Table
from raydet.errors import DataError
from raydet.records import Target

_FORMAT = 1
_COLUMNS = {
    "id": pa.large_utf8(),
    "file": pa.large_utf8(),
    "height": pa.int32(),
    "width": pa.int32(),
    "boxes": pa.large_list(pa.float64()),  # four numbers a box: xyxy
    "classes": pa.large_list(pa.int32()),
    "crowd": pa.large_list(pa.uint8()),
    "areas": pa.large_list(pa.float64()),
    "hash_sorted": pa.uint64(),  # hashes of all ids in ascending order, and
    "hash_row": pa.int64(),  # the rows they belong to: lookup by id without a dict
}


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Everything annotated in one image, for evaluation; in original pixels."""

    boxes: NDArray[np.float64]  # [N, 4] xyxy
    classes: NDArray[np.int64]  # [N]
    crowd: NDArray[np.bool_]  # [N] not to be found, and no mistake to find
    areas: NDArray[np.float64]  # [N] square pixels: of the mask where one was annotated, else of the box


def write_index(path: Path, table: Table) -> None:
    """Write a table as an index file: aside first, then renamed, so that no reader ever sees half of it."""
    batch = _batch(table)
    about = {"format": _FORMAT, "class_names": list(table.class_names), "root": os.fspath(table.root)}
    metadata = {"raydet": json.dumps(about)}
    metadata["digest"] = _digest(metadata["raydet"].encode(), batch)
    batch = batch.replace_schema_metadata(metadata)
    with replacing(path) as stream, pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)


class DatasetIndex:
    """Read access to an index file. Pickles as its path; every process maps the same pages."""

    def __init__(self, path: Path, batch: Any, about: dict[str, Any]) -> None:
        """Wrap a checked record batch; use `open`."""
        self.path = path
        self.class_names: tuple[str, ...] = tuple(about["class_names"])
        self.root = Path(about["root"])
        self._batch = batch
        self._ids, self._files = batch.column("id"), batch.column("file")
        self._sizes = np.stack([_flat(batch.column("height")), _flat(batch.column("width"))], axis=1)
        classes, boxes = batch.column("classes"), batch.column("boxes")
        self._first: NDArray[np.int64] = _flat(classes.offsets)
        self._boxes: NDArray[np.float64] = _flat(boxes.values).reshape(-1, 4)
        self._classes: NDArray[np.int32] = _flat(classes.values)
        self._crowd: NDArray[np.uint8] = _flat(batch.column("crowd").values)
        self._areas: NDArray[np.float64] = _flat(batch.column("areas").values)
        self._hash_sorted: NDArray[np.uint64] = _flat(batch.column("hash_sorted"))
        self._hash_row: NDArray[np.int64] = _flat(batch.column("hash_row"))

    @staticmethod
    def open(path: str | Path) -> DatasetIndex:
        """Map an index file. Raises DataError where it is missing, damaged, or of another version."""
        file = Path(path)
        remedy = "delete it and prepare the data again"
        try:
            with pa.ipc.open_file(pa.memory_map(os.fspath(file))) as reader:
                if reader.num_record_batches != 1:
                    raise DataError(f"{file}: not a raydet index; {remedy}")
                batch = reader.get_batch(0)
            batch.validate(full=True)
            columns = [(field.name, field.type) for field in batch.schema]
        except FileNotFoundError:
            raise DataError(f"{file}: no such index; prepare the data first") from None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: damaged or not an index ({str(error).splitlines()[0]}); {remedy}") from None
        metadata = batch.schema.metadata or {}
        text = metadata.get(b"raydet")
        if text is None or columns != list(_COLUMNS.items()):
            raise DataError(f"{file}: not a raydet index; {remedy}")
        if _digest(text, batch).encode() != metadata.get(b"digest"):
            raise DataError(f"{file}: damaged (its content does not match its digest); {remedy}")
        about = json.loads(text)
        if about["format"] != _FORMAT:
            raise DataError(f"{file}: index format {about['format']}, this raydet reads {_FORMAT}; {remedy}")
        return DatasetIndex(file, batch, about)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return DatasetIndex.open, (os.fspath(self.path.absolute()),)

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def id_at(self, row: int) -> str:
        """Return the image id of a row."""
        return str(self._ids[row].as_py())

    def ids(self) -> list[str]:
        """Return all image ids, in row order."""
        return list(self._ids.to_pylist())

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

    def file_at(self, row: int) -> Path:
        """Return the image file of a row. Raises DataError where it would lie outside the image root."""
        return resolve_inside(self.root, self._files[row].as_py())

    def size_at(self, row: int) -> tuple[int, int]:
        """Return `(height, width)` in pixels after EXIF rotation."""
        return int(self._sizes[row, 0]), int(self._sizes[row, 1])

    def target_at(self, row: int) -> Target:
        """Return what to train on: boxes float32 `[N, 4]` in original pixels, without crowd boxes."""
        truth = self.truth_at(row)
        boxes = torch.from_numpy(truth.boxes[~truth.crowd].astype(np.float32))
        return Target(boxes, torch.from_numpy(truth.classes[~truth.crowd]))

    def truth_at(self, row: int) -> Truth:
        """Return everything annotated in an image, crowd boxes included."""
        own = slice(self._first[row], self._first[row + 1])
        return Truth(
            self._boxes[own].copy(),
            self._classes[own].astype(np.int64),
            self._crowd[own].astype(np.bool_),
            self._areas[own].copy(),
        )

    @property
    def num_boxes(self) -> int:
        """Return how many boxes can be trained on (crowd boxes are not counted)."""
        return int((self._crowd == 0).sum())

    def boxes_per_class(self) -> NDArray[np.int64]:
        """Return the number of boxes `[num_classes]` that can be trained on."""
        return np.bincount(self._classes[self._crowd == 0], minlength=len(self.class_names))


def _batch(table: Table) -> Any:
    first = table.first.astype(np.int64)
    hashes = np.array([_hash(image_id) for image_id in table.ids], dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")

    def lists(values: NDArray[Any], offsets: NDArray[np.int64]) -> Any:
        return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))

    columns = [
        pa.array(table.ids, pa.large_utf8()),
        pa.array(table.files, pa.large_utf8()),
        pa.array(table.sizes[:, 0].astype(np.int32)),
        pa.array(table.sizes[:, 1].astype(np.int32)),
        lists(table.boxes.astype(np.float64).reshape(-1), first * 4),
        lists(table.classes.astype(np.int32), first),
        lists(table.crowd.astype(np.uint8), first),
        lists(table.areas.astype(np.float64), first),
        pa.array(hashes[order]),
        pa.array(order.astype(np.int64)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(list(_COLUMNS.items())))


def _flat(column: Any) -> NDArray[Any]:
    """View a column without nulls as NumPy, without a copy."""
    array: NDArray[Any] = column.to_numpy(zero_copy_only=True)
    return array


def _hash(image_id: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "little"))


def _digest(about: bytes, batch: Any) -> str:
    digest = hashlib.blake2b(about, digest_size=16)
    for buffer in _buffers(batch.columns):
        digest.update(buffer.size.to_bytes(8, "little"))
        digest.update(buffer)
    return digest.hexdigest()


def _buffers(columns: Iterable[Any]) -> Iterable[Any]:
    for column in columns:
        yield from (buffer for buffer in column.buffers() if buffer is not None)
