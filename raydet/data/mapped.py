"""Index files: one memory-mapped Arrow IPC file per image set that all processes share, not a list of dicts in each.

A row is an image. Opening checks a digest of the whole content, so that a half-written or damaged file is never used;
nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydet.data.evenly import evenly
from raydet.errors import DataError
from raydet.files import replacing, write_text

_LOOKUP = {
    "hash_sorted": pa.uint64(),  # hashes of all ids in ascending order, and
    "hash_row": pa.int64(),  # the rows they belong to: lookup by id without a dict
}


@dataclass(frozen=True, slots=True)
class IndexKind:
    """What one kind of index file holds."""

    name: str  # what messages call it
    key: str  # of its description in the file's metadata
    format: int
    columns: Mapping[str, Any]  # name -> Arrow type, no nulls; the first is "id"
    extra: Mapping[str, Any] = field(default_factory=dict)  # columns that come last, all of them or none
    missing: str = "prepare the data first"
    remedy: str = "delete it and prepare the data again"

    @property
    def schema(self) -> Any:
        """Return the columns and those of the lookup, without the extra ones."""
        return pa.schema([*self.columns.items(), *_LOOKUP.items()])

    @property
    def full_schema(self) -> Any:
        """Return all columns and those of the lookup."""
        return pa.schema([*self.columns.items(), *self.extra.items(), *_LOOKUP.items()])


class MappedIndex:
    """Read access to an index file. Pickles as its path; every process maps the same pages."""

    kind: ClassVar[IndexKind]
    content: str
    """A digest of everything that is known of the images, wherever they lie."""
    seen_as: NDArray[np.int64] | None = None
    """Which image `[N]` is seen at each row, where some turned out to be damaged in mid-run: a sound one instead.

    The rows stay what they are, so that the order of all other images stays too.
    """

    def __init__(self, path: Path, batch: Any, about: dict[str, Any]) -> None:
        """Wrap a checked record batch; use `open`."""
        self.path = path
        self.class_names: tuple[str, ...] = tuple(about["class_names"])
        self._ids = batch.column("id")
        self._hash_sorted: NDArray[np.uint64] = flat(batch.column("hash_sorted"))
        self._hash_row: NDArray[np.int64] = flat(batch.column("hash_row"))

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Map an index file. Raises DataError where it is missing, damaged, or of another version."""
        file = Path(path)
        batch, about, content = _read(file, cls.kind)
        index = cls(file, batch, about)
        index.content = content
        index.seen_as = _stand_ins(file, len(index))
        return index

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return type(self).open, (os.fspath(self.path.absolute()),)

    def __len__(self) -> int:
        return len(self._ids)

    def id_at(self, row: int) -> str:
        """Return the id of the image that is seen at a row."""
        return self._own_id(self.at(row))

    def _own_id(self, row: int) -> str:
        return str(self._ids[row].as_py())

    def at(self, row: int) -> int:
        """Return the row whose image is seen at `row`."""
        return row if self.seen_as is None else int(self.seen_as[row])

    def sound_rows(self) -> NDArray[np.int64]:
        """Return the rows whose own image is seen, ascending."""
        rows = np.arange(len(self), dtype=np.int64)
        return rows if self.seen_as is None else rows[self.seen_as == rows]

    def rows_to_judge(self, max_images: int | None) -> list[int]:
        """Return the rows that an evaluation looks at, ascending: up to `max_images` sound ones, None for all.

        They are evenly spaced: sets are often sorted by class. A stand-in is left out, for its image has a row of its
        own.
        """
        sound: list[int] = self.sound_rows().tolist()
        return sound if max_images is None else [sound[place] for place in evenly(len(sound), max_images)]

    def complaint_at(self, row: int) -> str:
        """Return what is wrong with the image that is seen at a row, '' where nothing is."""
        raise NotImplementedError

    def ids(self) -> list[str]:
        """Return all image ids, in row order."""
        return list(self._ids.to_pylist())

    def position(self, image_id: str) -> int:
        """Return the row of an image id, in O(log n) and without a table in memory. Raises KeyError."""
        key = _hash(image_id)
        place = int(np.searchsorted(self._hash_sorted, key))
        while place < len(self) and self._hash_sorted[place] == key:  # more than one turn: a collision
            row = int(self._hash_row[place])
            if self._own_id(row) == image_id:
                return row
            place += 1
        raise KeyError(f"no image id {image_id!r} in {self.path}")


def write_damaged(path: Path, rows: Sequence[int]) -> None:
    """Write beside an index file which of its images are damaged."""
    write_text(_damaged_file(path), json.dumps(sorted(rows)))


def forget_damaged(path: Path) -> None:
    """Take that back."""
    _damaged_file(path).unlink(missing_ok=True)


def _damaged_file(path: Path) -> Path:
    return path.with_suffix(".damaged.json")


def _stand_ins(path: Path, count: int) -> NDArray[np.int64] | None:
    """Return for each row `[N]` the next one, in a circle, whose image is sound; None where no image is damaged."""
    file = _damaged_file(path)
    try:
        damaged = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: damaged ({error}); delete it and resume with data.on_bad_image=skip") from None
    if not isinstance(damaged, list) or not all(type(row) is int and 0 <= row < count for row in damaged):
        raise DataError(f"{file}: does not fit {path.name}; delete it and resume with data.on_bad_image=skip")
    sound = np.setdiff1d(np.arange(count, dtype=np.int64), damaged)
    if not len(sound):
        raise DataError(f"{file}: no image of {path.name} is sound; restore them and delete the file")
    return sound[np.searchsorted(sound, np.arange(count)) % len(sound)]


def write_index_file(path: Path, kind: IndexKind, columns: Sequence[Any], about: Mapping[str, Any]) -> None:
    """Write an index file: aside first, then renamed, so that no reader ever sees half of it.

    `columns`: Arrow arrays in the order of `kind.columns`, the extra ones behind them or not; `about`: plain values,
    `class_names` among them.
    """
    hashes = np.array([_hash(image_id) for image_id in columns[0].to_pylist()], dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")
    lookup = [pa.array(hashes[order]), pa.array(order.astype(np.int64))]
    schema = kind.schema if len(columns) == len(kind.columns) else kind.full_schema
    batch = pa.RecordBatch.from_arrays([*columns, *lookup], schema=schema)
    text = json.dumps({"format": kind.format, **about})
    batch = batch.replace_schema_metadata({kind.key: text, "digest": _digest(text.encode(), _content(batch))})
    with replacing(path) as stream, pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)


def rows_of_file(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the image id and all columns of each row of an index file, as plain values: to say how two files differ."""
    with pa.ipc.open_file(pa.memory_map(os.fspath(path))) as reader:
        batch = reader.get_batch(0)
    columns = {name: batch.column(name) for name in batch.schema.names if name not in _LOOKUP}
    for row in range(batch.num_rows):
        values = {name: column[row].as_py() for name, column in columns.items()}
        yield values["id"], values


def stored_root(root: Path, file: Path) -> str:
    """Return how an index file names the folder of its images: relative where that lies beside it, as generated images
    do, so that a run folder can be moved or copied."""
    folder = file.parent.resolve()
    return os.fspath(root.relative_to(folder) if root.is_relative_to(folder) else root)


def opened_root(stored: str, file: Path) -> Path:
    """Return the folder, resolved, that `stored_root` has written into `file`."""
    root, folder = Path(stored), file.parent.resolve()
    if not root.is_absolute():
        return folder / root
    # Older versions wrote all of them absolute, those of generated images too.
    for place, part in enumerate(root.parts):
        if part == "generated" and (own := folder.joinpath(*root.parts[place:])).is_dir():
            return own
    return root


def flat(column: Any) -> NDArray[Any]:
    """View a column without nulls as NumPy, without a copy."""
    array: NDArray[Any] = column.to_numpy(zero_copy_only=True)
    return array


def _read(file: Path, kind: IndexKind) -> tuple[Any, dict[str, Any], str]:
    """Map the file and check it: (record batch, description, digest of the batch)."""
    remedy = kind.remedy
    try:
        with pa.ipc.open_file(pa.memory_map(os.fspath(file))) as reader:
            batches = [reader.get_batch(number) for number in range(min(2, reader.num_record_batches))]
        for batch in batches:
            batch.validate(full=True)
    except FileNotFoundError:
        raise DataError(f"{file}: no such {kind.name}; {kind.missing}") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise DataError(f"{file}: damaged or not an {kind.name} ({reason}); {remedy}") from None
    batch = batches[0] if len(batches) == 1 else None
    known = batch is not None and any(batch.schema.equals(schema) for schema in (kind.schema, kind.full_schema))
    if batch is None or not known or kind.key.encode() not in (batch.schema.metadata or {}):
        raise DataError(f"{file}: not a raydet {kind.name}; {remedy}")
    metadata = batch.schema.metadata
    text = metadata[kind.key.encode()]
    if (found := _format(text)) != kind.format:
        raise DataError(f"{file}: {kind.name} format {found}, this raydet reads {kind.format}; {remedy}")
    content = "" if any(column.null_count for column in batch.columns) else _content(batch)
    if _digest(text, content).encode() != metadata.get(b"digest"):
        raise DataError(f"{file}: damaged (its content does not match its digest); {remedy}")
    return batch, json.loads(text), content


def _format(text: bytes) -> Any:
    try:
        return json.loads(text)["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "unknown"


def _hash(image_id: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "little"))


def _digest(about: bytes, content: str) -> str:
    return hashlib.blake2b(about + content.encode(), digest_size=16).hexdigest()


def _content(batch: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for column in batch.columns:
        for values in _values(column):
            digest.update(values.nbytes.to_bytes(8, "little"))
            digest.update(values.data)
    return digest.hexdigest()


def _values(column: Any) -> Iterator[NDArray[Any]]:
    """Yield what a column says, whatever spare room its buffers have."""
    if pa.types.is_large_list(column.type):
        yield flat(column.offsets)
        yield flat(column.values)
    elif pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type):
        if len(column):
            _, offsets, data = column.buffers()
            ends = np.frombuffer(offsets, np.int64, len(column) + 1, column.offset * 8)
            yield np.diff(ends)
            yield np.frombuffer(data if data is not None else b"", np.uint8)[ends[0] : ends[-1]]
    else:
        yield flat(column)
