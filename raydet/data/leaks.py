"""The same picture in two sets: what was seen in training must not be measured, nor hidden labels be known."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from raydet.data.paths import resolve_inside
from raydet.data.problems import ProblemLog
from raydet.data.source import Table


def report_shared_images(first: tuple[str, Table], second: tuple[str, Table], log: ProblemLog) -> None:
    """Report images of the second set that are also in the first, by path or by content; arguments are (name, set).

    Only files of equal size are read.
    """
    (name, table), (other_name, other_table) = first, second
    known = _by_size(table)
    digests: dict[Path, bytes] = {}
    for size, files in _by_size(other_table).items():
        if size not in known:
            continue
        by_digest = {_digest(path, digests): image_id for path, image_id in known[size]}
        for path, image_id in files:
            if (twin := by_digest.get(_digest(path, digests))) is not None:
                message = f"the same picture is image id {twin} of the {name} set"
                fix = f"remove it from one of the sets {name} and {other_name}"
                log.warn("image-in-two-sets", path, f"image id {image_id} of the {other_name} set", message, fix)


def report_repeated_images(name: str, table: Table, log: ProblemLog) -> None:
    """Report images of one set whose files have the same content under different names."""
    digests: dict[Path, bytes] = {}
    for files in _by_size(table).values():
        first: dict[bytes, tuple[Path, str]] = {}
        for path, image_id in files if len(files) > 1 else []:
            other, other_id = first.setdefault(_digest(path, digests), (path, image_id))
            if other != path:
                message = f"the same picture is image id {other_id}, {other.name}"
                log.warn("image-twice", path, f"image id {image_id} of the {name} set", message, "remove one of them")


def _by_size(table: Table) -> dict[int, list[tuple[Path, str]]]:
    groups: dict[int, list[tuple[Path, str]]] = {}
    for name, image_id in zip(table.files, table.ids, strict=True):
        path = resolve_inside(table.root, name)
        groups.setdefault(os.stat(path).st_size, []).append((path, image_id))
    return groups


def _digest(path: Path, known: dict[Path, bytes]) -> bytes:
    if path not in known:
        with path.open("rb") as stream:
            known[path] = hashlib.file_digest(stream, "blake2b").digest()
    return known[path]
