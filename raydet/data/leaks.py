"""The same picture twice, by content: what was seen in training must not be measured, nor hidden labels be known."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from raydet.data.problems import ProblemLog
from raydet.errors import DataError

IN_TWO_SETS = "image-in-two-sets"
_END = 2_048  # bytes of either end; tell nearly all different pictures of equal file size apart


class Pictures(Protocol):
    """A set of images, in files or in memory."""

    def __len__(self) -> int: ...

    @property
    def holds_files(self) -> bool:
        """Return whether the images lie in files of their own."""

    def id_at(self, row: int) -> str:
        """Return the image id of a row."""

    def name_at(self, row: int) -> str:
        """Return what messages call an image: its file, or file and row."""

    def file_at(self, row: int) -> Path | None:
        """Return the file of a row; None where its content is in memory."""

    def bytes_at(self, row: int) -> memoryview:
        """Return the content of a row that is in memory."""

    def num_bytes_at(self, row: int) -> int:
        """Return the size of a row's file or content. Raises OSError where a file cannot be asked."""


def report_shared_images(tables: Mapping[str, Pictures], log: ProblemLog, *, most_files: int | None = None) -> None:
    """Report pictures that are in several sets; the earlier set in `tables` is the one named.

    With more than `most_files` files to open, only say that this was not looked for.
    """
    names, sets = list(tables), list(tables.values())
    files = sum(len(table) for table in sets if table.holds_files)
    if len(sets) > 1 and most_files is not None and files > most_files:
        message = f"{files:,} files were not searched for pictures that are in two sets"
        log.warn("not-searched", ", ".join(names), "", message, "`raydet check-data` does, and opens all of them")
        return
    pictures = _Pooled.of(sets)
    for group in _identical(pictures, pictures.set_number):
        first = int(group[0])
        for other in group[pictures.set_number[group] != pictures.set_number[first]].tolist():
            first_set, other_set = names[pictures.set_number[first]], names[pictures.set_number[other]]
            where = f"image id {pictures.id_at(other)} of the {other_set} set"
            message = f"the same picture is image id {pictures.id_at(first)} of the {first_set} set"
            fix = f"remove it from one of the sets {first_set} and {other_set}"
            log.warn(IN_TWO_SETS, pictures.name_at(other), where, message, fix)
            log.shared[first_set, other_set] += 1


def report_repeated_images(table: Pictures, log: ProblemLog) -> None:
    """Report pictures that one set holds twice, under different names."""
    pictures = _Pooled.of([table])
    for group in _identical(pictures, pictures.row):
        first = int(group[0])
        for other in group[1:].tolist():
            if pictures.name_at(other) == pictures.name_at(first):
                continue  # two entries for one file are reported elsewhere
            message = f"the same picture is image id {pictures.id_at(first)}, {pictures.name_at(first)}"
            where = f"image id {pictures.id_at(other)}"
            log.warn("image-twice", pictures.name_at(other), where, message, "remove one of them")


@dataclass(frozen=True, slots=True, eq=False)
class _Pooled:
    """All images of several sets, one after the other."""

    sets: list[Pictures]
    set_number: NDArray[np.int64]  # [P]
    row: NDArray[np.int64]  # [P] in its set

    @staticmethod
    def of(sets: list[Pictures]) -> _Pooled:
        counts = [len(table) for table in sets]
        rows = [np.arange(count, dtype=np.int64) for count in counts]
        return _Pooled(sets, np.repeat(np.arange(len(sets)), counts), np.concatenate([np.zeros(0, np.int64), *rows]))

    def id_at(self, picture: int) -> str:
        return self._set_of(picture).id_at(int(self.row[picture]))

    def name_at(self, picture: int) -> str:
        return self._set_of(picture).name_at(int(self.row[picture]))

    def _set_of(self, picture: int) -> Pictures:
        return self.sets[int(self.set_number[picture])]

    def traits(self, trait: Callable[[Pictures, int], Any], pictures: NDArray[np.int64]) -> NDArray[np.uint64]:
        found = np.empty(len(pictures), dtype=np.uint64)
        for place, picture in enumerate(pictures.tolist()):
            try:
                found[place] = trait(self._set_of(picture), int(self.row[picture]))
            except OSError as error:
                raise DataError(f"{self.name_at(picture)}: cannot be read: {error.strerror or error}") from None
        return found


def _identical(pictures: _Pooled, owners: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield groups of equal pictures that belong to several `owners` `[P]`; few files are read to their end."""
    candidates = np.arange(len(pictures.row))
    for trait in (_size, _ends, _digest):
        keys = pictures.traits(trait, candidates)
        kept = _of_several_owners(keys, owners[candidates])
        candidates, keys = candidates[kept], keys[kept]
    order = np.argsort(keys, kind="stable")  # pictures of a group stay in the order of their sets
    starts = np.flatnonzero(np.diff(keys[order])) + 1
    groups = np.split(candidates[order], starts) if len(order) else []
    yield from sorted(groups, key=lambda group: int(group[0]))


def _of_several_owners(keys: NDArray[np.uint64], owners: NDArray[np.int64]) -> NDArray[np.bool_]:
    _, group = np.unique(keys, return_inverse=True)
    low = np.full(len(keys), np.iinfo(np.int64).max)
    high = np.full(len(keys), -1)
    np.minimum.at(low, group, owners)
    np.maximum.at(high, group, owners)
    several: NDArray[np.bool_] = low[group] != high[group]
    return several


def _size(table: Pictures, row: int) -> int:
    return table.num_bytes_at(row)


def _ends(table: Pictures, row: int) -> int:
    """The beginning alone does not tell: pictures of one program may begin with the same kilobytes of profiles."""
    file = table.file_at(row)
    if file is None:
        content = table.bytes_at(row)
        return _number(hashlib.blake2b(bytes(content[:_END]) + bytes(content[-_END:]), digest_size=8))
    with file.open("rb") as stream:
        head = stream.read(_END)
        stream.seek(max(0, stream.seek(0, io.SEEK_END) - _END))
        return _number(hashlib.blake2b(head + stream.read(_END), digest_size=8))


def _digest(table: Pictures, row: int) -> int:
    file = table.file_at(row)
    if file is None:
        return _number(hashlib.blake2b(table.bytes_at(row), digest_size=8))
    with file.open("rb") as stream:
        return _number(hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=8)))


def _number(digest: Any) -> int:
    return int.from_bytes(digest.digest(), "little")
