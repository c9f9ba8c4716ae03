"""Whether the images of a run still are what they were, and whether data that lies elsewhere now is the same.

RUN/data/sources.json holds the bytes of every image file. Names, sizes in pixels and annotations are in the index
files, whose content does not depend on where the images lie.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from raydet.data.mapped import MappedIndex, rows_of_file
from raydet.data.threads import in_threads
from raydet.errors import DataError
from raydet.files import read_json, write_text
from raydet.text import plural

_FILE, _FORMAT = "sources.json", 1
_SHOWN = 3


class Files(Protocol):
    """Images, each in a file of its own or in memory."""

    def __len__(self) -> int: ...

    def file_at(self, row: int) -> Path | None:
        """Return the file of a row; None where its content is in memory."""


class Looked(Files, Protocol):
    """Images that were looked at just now."""

    @property
    def holds_files(self) -> bool:
        """Return whether the images lie in files of their own."""

    def num_bytes_at(self, row: int) -> int:
        """Return the size of a row's file or content. Raises OSError where a file cannot be asked."""


class Indexed(Files, Protocol):
    """Images of an index file."""

    def at(self, row: int) -> int:
        """Return the row whose image is seen at `row`: another one where its own is left out."""

    def complaint_at(self, row: int) -> str:
        """Return what is wrong with the image that is seen at a row, '' where nothing is."""


def write_sources(folder: Path, tables: Mapping[str, Looked]) -> None:
    """Write down the bytes of all image files; -1 for images that are no files."""
    sets = {name: list(_bytes_of(len(table), _known_size(table))) for name, table in tables.items()}
    write_text(folder / _FILE, json.dumps({"format": _FORMAT, "bytes": sets}))


def check_sources(folder: Path, name: str, index: Indexed, *, key: str, skips: bool) -> None:
    """Raise DataError, with what differs, unless the image files of a set are where and what they were.

    `key` is the setting that names them; `skips`: damaged ones are left out, and so may differ. Folders of older
    versions do not know bytes: there the files must exist.
    """
    before = _known(folder).get(name)
    found = []
    for row, now in enumerate(_bytes_of(len(index), _size_now(index))):
        was = before[row] if before is not None and row < len(before) else None
        if skips and was != now and (index.at(row) != row or index.complaint_at(row)):
            continue
        if now is None:
            found.append(f"{index.file_at(row)} is not there")
        elif was not in (None, now):
            found.append(f"{index.file_at(row)} has {now:,} bytes, not {was:,}")
    if found:
        raise DataError(
            f"{key}: {len(found):,} of {plural(len(index), 'image')} of the {name} set are not as they were when the "
            f"run began: {_some(found)}. Put them back; where the data has moved, say so once: raydet train CONFIG "
            f"--resume {key}.path=NEW (and {key}.images=NEW, where set), which goes on where the content is the same. "
            f"Where files are damaged, go on without such pictures: --resume data.on_bad_image=skip"
        )


def check_same(before: Path, now: Path, sets: Sequence[str], index: type[MappedIndex]) -> None:
    """Raise DataError, with the difference, unless two folders of prepared data hold the same images."""
    for name in sets:
        if problem := _not_same(before, now, name, index):
            raise DataError(
                f"this is not the data that the run began with; its {name} set: {problem}. Name where that data lies "
                f"now, or start a new run, in another run.dir, with this one"
            )


def _not_same(before: Path, now: Path, name: str, index: type[MappedIndex]) -> str:
    old, new = before / f"{name}.arrow", now / f"{name}.arrow"
    if not (old.exists() and new.exists()):
        return "" if old.exists() == new.exists() else "there is none now" if old.exists() else "there was none"
    if index.open(old).content != index.open(new).content:
        return _difference(old, new)
    was, is_now = _known(before).get(name), _known(now).get(name)
    changed = [row for row, pair in enumerate(zip(was or (), is_now or (), strict=False)) if pair[0] != pair[1]]
    ids = [f"image id {index.open(new).id_at(row)}" for row in changed[:_SHOWN]]
    return (
        f"{plural(len(changed), 'image file has', 'image files have')} another size in bytes, e.g. {_some(ids)}"
        if changed
        else ""
    )


def _known_size(table: Looked) -> Callable[[int], int]:
    return table.num_bytes_at if table.holds_files else lambda row: -1


def _size_now(files: Files) -> Callable[[int], int]:
    def size(row: int) -> int:
        file = files.file_at(row)
        return -1 if file is None else os.stat(file).st_size

    return size


def _bytes_of(count: int, size: Callable[[int], int]) -> Iterator[int | None]:
    """Yield the bytes of each file, None where there is none, -1 where the content is in memory."""

    def look(row: int) -> int | None:
        try:
            return size(row)
        except (OSError, DataError):
            return None

    yield from in_threads(look, range(count))


def _known(folder: Path) -> dict[str, list[int | None]]:
    file = folder / _FILE
    if not file.is_file():
        return {}
    content = read_json(file, DataError)
    if content.get("format") != _FORMAT or not isinstance(content.get("bytes"), dict):
        raise DataError(f"{file}: format {content.get('format')!r}, this raydet reads {_FORMAT}; delete it to go on")
    return dict(content["bytes"])


def _difference(old: Path, new: Path) -> str:
    before, now = (dict(rows_of_file(file)) for file in (old, new))
    gone, added = [i for i in before if i not in now], [i for i in now if i not in before]
    parts = [
        f"{plural(len(ids), 'image')} {what} ({_some(ids)})" for ids, what in ((gone, "missing"), (added, "new")) if ids
    ]
    changed = [_changed(i, row, now[i]) for i, row in before.items() if i in now and row != now[i]]
    if changed:
        parts.append(f"{plural(len(changed), 'image')} changed ({_some(changed)})")
    return "; ".join(parts) or "the same images in another order, or with other class names"


def _changed(image_id: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return f"{image_id}: {', '.join(column for column in before if before[column] != now[column])}"


def _some(texts: Sequence[str]) -> str:
    return ", ".join(texts[:_SHOWN]) + (", ..." if len(texts) > _SHOWN else "")
