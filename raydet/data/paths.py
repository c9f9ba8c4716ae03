"""File names in data sets are foreign text: none may lead out of the declared image folder."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from raydet.errors import DataError
from raydet.text import is_plain


class LeadsOutsideError(DataError):
    """A symlink leads out of the folder that files must lie in; `is_folder`: one to a folder."""

    def __init__(self, name: str, root: Path, target: Path, *, is_folder: bool = False) -> None:
        found, fix = f"file name {name!r} is a symlink out of the image root {root}", "; copy the file there"
        if is_folder:  # the target is foreign text
            found = f"folder {name!r} is a symlink to {str(target)!r}; those must lead to other folders inside {root}"
            fix = ": copy it there, or remove the symlink"
        super().__init__(found + fix)
        self.root, self.target, self._found = root, target, found

    @property
    def with_way_out(self) -> str:
        """Return the message for sets that have the key `images`."""
        return f"{self._found}; {ways_in(self.root, self.target)}"


_HARMLESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")  # what no rule is about
_MAX_NAME_BYTES, _MAX_PATH_BYTES = 255, 4095  # what Linux file systems allow


def resolve_inside(root: Path, name: object, *, is_folder: bool = False) -> Path:
    """Return the file `name` (relative, with `/`) under the resolved folder `root`, with symlinks followed.

    The file need not exist; `is_folder`: messages call it a folder. Raises DataError for anything that leaves
    `root` or cannot be a file name.
    """
    name = checked_name(name)
    if _is_plain_below(str(root), name):
        return root / name
    shown = _shown(name)
    try:
        path = (root / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a symlink loop
        raise DataError(f"file name {shown!r} cannot be followed: {error}") from None
    if not path.is_relative_to(root):
        raise LeadsOutsideError(shown, root, path, is_folder=is_folder)
    return path


def _is_plain_below(root: str, name: str) -> bool:
    """Whether `root/name` exists and no part of `name` is a symlink, so that it is its own resolved path.

    `Path.resolve` looks at every folder from `/` on, which for 100,000 images takes longer than to read their headers.
    """
    path = root
    for part in name.split("/"):
        if part in ("", "."):
            return False
        path = f"{path}/{part}"
        try:
            if stat.S_ISLNK(os.lstat(path).st_mode):
                return False
        except (OSError, ValueError):
            return False
    return True


def ways_in(root: Path, target: Path) -> str:
    """Say what to do about a symlink from a folder to a place outside of it."""
    return (
        f"set `images` to a folder that holds both, such as {os.path.commonpath([root, target])}, or copy what is there"
    )


def rebased(start: Path, limit: Path, name: str) -> str:
    """Return the file `start/NAME` as a name below the resolved folder `limit`, symlinks followed.

    A name that cannot be one, or leads out of `limit`, stays as it is, for the common rules to refuse.
    """
    if start == limit:
        return name
    try:
        return (
            resolve_inside(limit, os.path.relpath((start / checked_name(name)).resolve(), limit))
            .relative_to(limit)
            .as_posix()
        )
    except (DataError, OSError, RuntimeError, ValueError):
        return name


def checked_name(name: object) -> str:
    """Return a relative file name as it is. Raises DataError where it leads out of its root or cannot be one."""
    if isinstance(name, str) and len(name) < _MAX_NAME_BYTES and _HARMLESS.fullmatch(name):
        return name  # nearly all names, a good deal faster
    if not isinstance(name, str) or not name:
        raise DataError(f"file name {name!r:.40}: expected text such as images/0001.jpg")
    if complaint := _complaint(name):
        raise DataError(f"file name {_shown(name)!r} {complaint}")
    return name


def _shown(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:77]}..."


def _complaint(name: str) -> str | None:
    if not is_plain(name):
        return "contains a control character, or is not valid Unicode; rename the file"
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", name):
        return "is a URL; download the image and name the local file"
    if "\\" in name:
        return "contains a backslash; write / between folders"
    if name.startswith("/") or re.match(r"[a-zA-Z]:", name):
        return "is absolute; names are relative to the image root"
    parts = name.split("/")
    if ".." in parts:
        return "contains '..'; names must stay inside the image root"
    sizes = [len(part.encode()) for part in parts]
    if max(sizes) > _MAX_NAME_BYTES or sum(sizes) + len(parts) > _MAX_PATH_BYTES:
        return f"is too long (at most {_MAX_NAME_BYTES} bytes a name, {_MAX_PATH_BYTES} in all); rename the file"
    return None
