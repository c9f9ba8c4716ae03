"""Files and folders that are either the old version or the whole new one, whatever dies while they are written.

What a writer that was killed leaves behind is named `.writing-*-NAME`, beside NAME; `remove_unfinished` deletes it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from raydet.errors import StorageError, UserError
from raydet.faults import storage_error, writing
from raydet.text import is_plain

UNFINISHED = ".writing-"
NOTES = (".log", ".out", ".err", ".txt", ".md", ".sh", ".yaml", ".yml")
ATTEMPTS = 100  # at a lock whose folder vanishes


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


def check_writable(file: Path, option: str) -> None:
    """Raise UserError that starts with a command's option where its file could not be written; makes nothing."""
    place = next(each for each in file.absolute().parents if each.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        why = storage_error(place, error) or f"{place}: nothing can be written there ({error.strerror}); choose another"
        raise UserError(f"{option} {file}: {why}") from None


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


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def locked(file: Path, in_use: Exception | None) -> Iterator[None]:
    """Hold a file for this process; the system releases it even when the process is killed.

    Raises `in_use` where another process holds it (None: waits for it), StorageError where it cannot be written or its
    file system has no locks, FileNotFoundError where its folder is not there.
    """
    with ExitStack() as stack:
        while True:
            with writing(file):
                stream = file.open("w")
            stack.enter_context(stream)
            try:
                fcntl.flock(stream, fcntl.LOCK_EX if in_use is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if in_use is not None and error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise in_use from None
                raise storage_error(file, error) or _no_locks(file, error) from None
            if _lies_at(stream.fileno(), file):
                break
            stack.close()  # whoever held it has removed it meanwhile, and the next one will not see it
        yield


def _no_locks(file: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{file}: the file system has no locks ({error.strerror}); mount it with them (NFS: with its lock service, "
        f"Lustre: with -o flock), or choose a folder elsewhere"
    )


def _lies_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


@contextmanager
def held(
    folder: Path, in_use: Exception, *, create: Callable[[], object], own: Collection[str], is_kept: Callable[[], bool]
) -> Iterator[None]:
    """Hold a folder by its file `.lock`, as with `locked`; it is made where it is missing.

    Where it cannot be, or not be written to, `create` is to make it and to say so in its own words.

    Unless `is_kept` when the block ends, it is left as it was found: of the names `own` those that came meanwhile are
    removed, then the lock, while it is held, and the folders that were missing, where nobody has put something into
    them.
    """
    lock = folder / ".lock"
    had_lock = lock.exists()
    missing: list[Path] = []
    try:
        with ExitStack() as stack:
            try:
                _enter(stack, lock, in_use, create, missing)
            except StorageError:  # nobody can hold it
                if not had_lock:
                    with suppress(OSError):
                        lock.unlink()
                raise
            before = {each.name for each in folder.iterdir()}
            try:
                yield
            finally:
                if not is_kept():
                    for name in set(own) - before:
                        _remove(folder / name)
                    if not had_lock:
                        lock.unlink(missing_ok=True)
    finally:
        for each in missing:
            with suppress(OSError):
                each.rmdir()


def _enter(stack: ExitStack, lock: Path, in_use: Exception, create: Callable[[], object], missing: list[Path]) -> None:
    """Take the lock; `missing` then holds the folders that were not there before, the innermost first.

    It is tried again where another process, which leaves the folder as it found it, has taken it away meanwhile.
    """
    for _ in range(ATTEMPTS):
        missing[:] = [each for each in lock.parents if not each.exists()]
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(lock, in_use))
            return
        except (FileNotFoundError, FileExistsError):
            continue
        except (OSError, StorageError):
            break
    create()
    stack.enter_context(locked(lock, in_use))


def first_foreign(folder: Path, is_own: Callable[[Path], bool]) -> str | None:
    """Return the name of something in a folder that is to be filled that is neither `is_own` nor hidden, nor one of the
    logs and notes that people keep beside results; None where there is nothing such."""
    for each in sorted(folder.iterdir()) if folder.is_dir() else ():
        is_note = each.suffix.lower() in NOTES and each.is_file()
        if not (each.name.startswith(".") or is_note or is_own(each)):
            return each.name if is_plain(each.name) else ascii(each.name)
    return None


def move_folder(folder: Path, target: Path) -> None:
    """Rename a folder, in place of what is at `target`; on another disk it is copied.

    Whatever dies meanwhile, it is whole at one of the two places, or at both. Raises StorageError.
    """
    with writing(target):
        if target.is_dir():
            shutil.rmtree(target)
        try:
            folder.rename(target)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    remove_unfinished(target.parent, target.name)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    with replacing_path(target, needed=size) as copy:
        shutil.copytree(folder, copy)
    gone = folder.with_name(f"{UNFINISHED}{secrets.token_hex(4)}-{folder.name}")
    folder.rename(gone)  # at once: a half-deleted folder must not have its name
    shutil.rmtree(gone, ignore_errors=True)


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
