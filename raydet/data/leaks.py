"""The same picture twice: what was seen in training must not be measured, nor hidden labels be known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from raydet.data.paths import resolve_inside
from raydet.data.problems import ProblemLog
from raydet.data.source import Table

_HEAD = 4_096  # bytes; tells nearly all different pictures of equal file size apart


@dataclass(frozen=True, slots=True)
class _Picture:
    set_name: str
    image_id: str
    path: Path


def report_shared_images(tables: Mapping[str, Table], log: ProblemLog) -> None:
    """Report pictures that are in several sets, by path or by content; the earlier set in `tables` is the one named."""
    for group in _identical(_pictures(tables), lambda group: len({picture.set_name for picture in group}) > 1):
        first = group[0]
        for other in group:
            if other.set_name != first.set_name:
                where = f"image id {other.image_id} of the {other.set_name} set"
                message = f"the same picture is image id {first.image_id} of the {first.set_name} set"
                fix = f"remove it from one of the sets {first.set_name} and {other.set_name}"
                log.warn("image-in-two-sets", other.path, where, message, fix)


def report_repeated_images(name: str, table: Table, log: ProblemLog) -> None:
    """Report files of one set that have the same content under different names."""
    for group in _identical(_pictures({name: table}), lambda group: len({picture.path for picture in group}) > 1):
        first = group[0]
        for other in group:
            if other.path != first.path:  # two entries for one file are reported elsewhere
                message = f"the same picture is image id {first.image_id}, {first.path.name}"
                log.warn("image-twice", other.path, f"image id {other.image_id}", message, "remove one of them")


def _pictures(tables: Mapping[str, Table]) -> list[_Picture]:
    return [
        _Picture(set_name, image_id, resolve_inside(table.root, file))
        for set_name, table in tables.items()
        for image_id, file in zip(table.ids, table.files, strict=True)
    ]


def _identical(pictures: list[_Picture], matters: Callable[[list[_Picture]], bool]) -> Iterable[list[_Picture]]:
    """Return the groups of equal files that matter; few files are opened, fewer are read to the end."""
    groups: Iterable[list[_Picture]] = [pictures]
    for trait in (_size, _head, _digest):
        groups = [part for group in groups for part in _parts(group, trait) if matters(part)]
    return groups


def _parts(pictures: list[_Picture], trait: Callable[[Path], int | bytes]) -> Iterator[list[_Picture]]:
    parts: dict[int | bytes, list[_Picture]] = {}
    for picture in pictures:
        parts.setdefault(trait(picture.path), []).append(picture)
    yield from parts.values()


def _size(path: Path) -> int:
    return path.stat().st_size


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_HEAD)


def _digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").digest()
