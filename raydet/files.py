"""Files and folders that are either the old version or the whole new one, whatever dies while they are written.

What a writer that was killed leaves behind is named `.writing-*-NAME`, beside NAME; `remove_unfinished` deletes it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from raydet.faults import writing

UNFINISHED = ".writing-"


@contextmanager
def replacing_path(path: Path, *, needed: int | None = None) -> Iterator[Path]:
    """Give a path beside `path` to write a file or a folder to, one no other process has.

    When the block ends well, what was written is brought to the disk and replaces `path`; otherwise it is removed. A
    folder that is replaced by one is away for a moment. Raises what the writing raises, StorageError where that is the
    disk's: it tells of the bytes `needed`, where they are known.
    """
    with writing(path, needed=needed):
        with _aside(path) as aside:
            yield aside
        _sync(path.parent)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{UNFINISHED}{secrets.token_hex(4)}-{path.name}")
    try:
        yield aside
        for file in [*(sorted(aside.rglob("*")) if aside.is_dir() else ()), aside]:
            _sync(file)
        if aside.is_dir() and path.is_dir():
            shutil.rmtree(path)
        aside.replace(path)
    except BaseException:
        _remove(aside)
        raise


@contextmanager
def replacing(path: Path, *, needed: int | None = None) -> Iterator[BinaryIO]:
    """Give a file to write bytes to; when the block ends well it replaces `path`, as with `replacing_path`."""
    with replacing_path(path, needed=needed) as aside, aside.open("xb") as stream:
        yield stream


def make_folder(path: Path) -> Path:
    """Create a folder, and those above it, where they do not exist; return it. Raises StorageError."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    """Replace a file by a text in UTF-8; return its path."""
    content = text.encode()
    with replacing(path, needed=len(content)) as stream:
        stream.write(content)
    return path


def read_json(file: Path, error: type[Exception]) -> dict[str, Any]:
    """Return the JSON object in a file. Raises `error`, with the file's name, where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise error(f"{file}: cannot be read as JSON: {problem}") from None
    if not isinstance(content, dict):
        raise error(f"{file}: expected a JSON object, got {type(content).__name__}")
    return content


@contextmanager
def locked(file: Path, in_use: Exception) -> Iterator[None]:
    """Hold a file for this process; the system releases it even when the process is killed.

    Raises `in_use` where another process holds it, StorageError where it cannot be written.
    """
    with writing(file):
        stream = file.open("w")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise in_use from None
        yield


def remove_unfinished(folder: Path, names: str = "*") -> None:
    """Remove what killed writers left of the files and folders whose names fit a glob; none may be at work there."""
    for path in folder.glob(f"{UNFINISHED}*-{names}"):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Bring a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some file systems cannot do this for folders
            raise
    finally:
        os.close(descriptor)
