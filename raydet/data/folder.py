"""Finding files: one rule for pictures and labels of all formats, in a folder with its subfolders, or by a glob.

Passed over are hidden files (macOS writes `._im0.jpg` beside im0.jpg) and the folders that some systems add; symlinked
folders are not entered, with a word. The folder that is given may itself be hidden.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.text import is_plain, plural

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_ADDED_BY_SYSTEMS = frozenset({"__MACOSX", "@eaDir"})  # copies and thumbnails under the names of the real files


def is_passed_over(name: str) -> bool:
    """Return whether a file or folder of that name is none of the user's data."""
    return name.startswith(".") or name in _ADDED_BY_SYSTEMS


def files_ending(folder: Path, suffix: str, log: ProblemLog, *, deep: bool = True) -> list[Path]:
    """Return the files with that ending (of any case) under a folder, sorted by name; `deep`: in its subfolders too.

    Raises DataError where a folder cannot be listed.
    """
    if deep:
        found = [path for path in walk(folder, log) if path.suffix.lower() == suffix]
    else:
        found = [
            Path(entry.path) for entry in listed(folder) if entry.name.lower().endswith(suffix) and not entry.is_dir()
        ]
    return sorted(found)


def listed_images(pattern: str, log: ProblemLog) -> tuple[Path, list[str]]:
    """Return the resolved root and the names of the images of a folder or a glob, in the order of their names.

    A glob's root is what is before its first wildcard. Names that are not plain are reported and left out. Raises
    DataError where there is no image.
    """
    folder, names = (
        _from_glob(pattern, log) if glob.has_magic(pattern) and not os.path.isdir(pattern) else (pattern, None)
    )
    root = Path(folder).resolve()
    found = names if names is not None else image_names(root, log)
    if not found:
        raise DataError(f"{pattern}: no images there (looked for {', '.join(SUFFIXES)})")
    return root, found


def image_names(root: Path, log: ProblemLog, labels: str = "") -> list[str]:
    """Return the sorted names (relative, with `/`) of the image files under a folder; report what is passed over.

    `labels`: the ending of files that belong to the images and may lie beside them.
    """
    names: list[str] = []
    other = 0
    for path in walk(root, log):
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() not in SUFFIXES:
            other += not (labels and name.endswith(labels))
        elif _is_plain(root, name, log):
            names.append(name)
    if other:
        message = f"{plural(other, 'file with another ending was', 'files with other endings were')} passed over"
        log.warn("other-files", root, "", message, f"images must end in {', '.join(SUFFIXES)}")
    return sorted(names)


def walk(folder: Path, log: ProblemLog) -> Iterator[Path]:
    """Yield the files under a folder that count, in any order.

    Raises DataError where a folder cannot be listed or a symlink not be followed: a part of the data would silently be
    missing.
    """
    waiting = [folder]  # no recursion: an archive of deeply nested folders would exhaust it
    while waiting:
        for entry in listed(waiting.pop()):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif _leads_to_folder(entry):
                fix = "name its target as the data set, or copy it"
                log.warn("symlinked-folder", _shown(entry.path), "", "a symlinked folder is not entered", fix)
            else:
                yield Path(entry.path)


def listed(folder: Path) -> list[os.DirEntry[str]]:
    """Return what counts in a folder, sorted by name. Raises DataError where that cannot be known."""
    try:
        with os.scandir(folder) as entries:
            counting = (entry for entry in entries if not is_passed_over(entry.name))
            return sorted(counting, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{_shown(folder)}: cannot be listed: {error.strerror or error}") from None


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # such as symlinks in a circle
        message = f"{_shown(entry.path)}: cannot be followed: {error.strerror or error}; remove the symlink"
        raise DataError(message) from None


def _shown(path: Path | str) -> str:
    """Return a path as messages can hold it; those of an archive may contain escape sequences."""
    return str(path) if is_plain(str(path)) else ascii(str(path))


def _is_plain(root: Path, name: str, log: ProblemLog) -> bool:
    """Return whether messages and lists can hold the name of an image; one that they cannot hold is reported."""
    if is_plain(name):
        return True
    message = "the file name is not valid UTF-8 or contains a control character"
    log.error("file-name", root, ascii(name), message, "rename the file")
    return False


def _from_glob(pattern: str, log: ProblemLog) -> tuple[str, list[str]]:
    """Return the folder before the first wildcard and the sorted names of the image files that match."""
    parts = Path(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    if not root.is_dir():
        raise DataError(f"{pattern}: {root} is not a folder")
    matches = glob.glob(os.path.join(*parts[fixed:]), root_dir=root, recursive=True)
    counting = (name for name in map(Path, matches) if not any(map(is_passed_over, name.parts)))
    images = (name.as_posix() for name in counting if name.suffix.lower() in SUFFIXES and (root / name).is_file())
    return str(root), sorted(name for name in images if _is_plain(root, name, log))
