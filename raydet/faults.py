"""What others say when something fails, in raydet's words: the system, safetensors, Arrow, Ray, PyTorch.

The one place where such errors are recognised. What nobody here recognises is a bug in raydet, and is shown as one.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raydet.errors import RunError, StorageError, UserError
from raydet.text import size

_STORAGE = {
    errno.ENOSPC: ("the disk is full", "make room there"),
    errno.EDQUOT: ("the disk quota is used up", "make room there, or have the quota raised"),
    errno.EROFS: ("the file system is read-only", "choose a folder that can be written"),
    errno.EACCES: ("no permission to write there", "choose a folder that can be written, or change its permissions"),
    errno.EPERM: ("not allowed to write there", "choose a folder that can be written, or change its permissions"),
    errno.EFBIG: ("the file is larger than the file system takes", "choose another file system"),
    errno.EIO: ("the disk reports a fault", "look at the system's log; choose another disk"),
    errno.ESTALE: ("the network file system has lost the folder", "mount it again"),
    errno.ENOTDIR: ("lies below a file", "choose a folder"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
}
_NUMBER = re.compile(r"(?:os error |\[errno |errno[ :=]+)(\d+)", re.IGNORECASE)  # safetensors; Python and Arrow; others
_MEMORY = ("can't allocate memory", "out of memory", "cannot allocate memory")
_FOREIGN = {"safetensors": "safetensors", "pyarrow": "Arrow", "ray": "Ray", "torch": "PyTorch", "PIL": "Pillow"}


def errno_of(error: BaseException) -> int | None:
    """Return the system's number of an error, also of one that a library tells of in words alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _NUMBER.search(str(error))
    return int(found.group(1)) if found else None


def storage_error(path: Path, error: BaseException, *, needed: int | None = None) -> StorageError | None:
    """Return what is said where `path` could not be written because of the disk; None where it was something else.

    `needed`: bytes that were to be written, where they are known.
    """
    number = errno_of(error)
    if number not in _STORAGE:
        return None
    what, advice = _STORAGE[number]
    return StorageError(f"{path}: {what}{_room(path, number, needed)}; {advice}")


@contextmanager
def writing(path: Path, *, needed: int | None = None) -> Iterator[None]:
    """Within the block `path` is written: what the disk refuses becomes a StorageError, everything else stays."""
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:
        found = None if _is_about_another(path, error) else storage_error(path, error, needed=needed)
        if found is None:
            raise
        raise found from None


def explain(error: BaseException) -> str | None:
    """Return one message about an error that is none of raydet's own; None where it can only be a bug."""
    for each in _chain(error):
        if (text := _known(each)) is not None:
            return text
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _known(error: BaseException) -> str | None:
    text = str(error).strip()
    kind = type(error)
    name = getattr(error, "filename", None)
    if isinstance(error, OSError) and name is not None:
        found = storage_error(Path(str(name)), error)
        return str(found) if found is not None else f"{name}: {error.strerror}"
    if (number := errno_of(error)) in _STORAGE:
        what, advice = _STORAGE[number]
        return f"{what} ({_shortened(text)}); {advice}"
    if isinstance(error, MemoryError) or any(each in text.lower() for each in _MEMORY):
        return (
            f"not enough memory ({_shortened(text) or kind.__name__}); lower the batch, split it (optim.accumulate), "
            f"make images smaller (data.views), or use fewer processes"
        )
    library = _FOREIGN.get(kind.__module__.split(".")[0])
    return None if library is None else f"{library} says: {text or kind.__name__}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from, the innermost first: that is what failed."""
    seen: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in seen:
        seen.append(each)
        cause = getattr(each, "cause", None)  # Ray keeps the error of another process there
        each = cause if isinstance(cause, BaseException) else each.__cause__
    yield from reversed(seen)


def _is_about_another(path: Path, error: Exception) -> bool:
    """Whether an error names a file that is not beside or below `path`: one that was to be read meanwhile, say."""
    name = getattr(error, "filename", None)
    return isinstance(name, str) and not Path(name).is_relative_to(path.parent)


def _room(path: Path, number: int | None, needed: int | None) -> str:
    """Say how much is needed and free, where that is what is missing."""
    if number not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    parts = [] if needed is None else [f"{size(needed)} were to be written"]
    place = next((each for each in [path, *path.parents] if each.is_dir()), None)
    if place is not None:
        parts.append(f"{size(shutil.disk_usage(place).free)} are free in {place}")
    return f" ({', '.join(parts)})" if parts else ""


def _shortened(text: str) -> str:
    return (text.splitlines() or [""])[0][:300]
