"""Finding files: one rule for pictures and labels of all formats, in a folder with its subfolders, or by a glob.

Passed over are hidden files (macOS writes `._im0.jpg` beside im0.jpg) and the folders that some systems add. The folder
that is given may itself be hidden. Symlinked folders are not entered, with a word, but where they are what the user
asks for: as the folders of classes, and where a glob leads through them. There they must lead to folders inside.
"""

from __future__ import annotations

import glob
import os
from collections import defaultdict, deque
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from raydet.data.paths import LeadsOutsideError
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.text import is_plain, plural

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_Parts = tuple[str, ...]  # what is left of a glob
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


def listed_images(pattern: str, log: ProblemLog, images: Path | None = None) -> tuple[Path, list[str]]:
    """Return the resolved root and the names of the images of a folder or a glob, in the order of their names.

    A glob's root is what is before its first wildcard. Names that are not plain are reported and left out. Raises
    DataError where there is no image, and as `matching` does.
    """
    if glob.has_magic(pattern) and not os.path.isdir(pattern):
        folder, matches = matching(pattern, images)
        root = folder.resolve()
        found = sorted(name for name in matches if name.lower().endswith(SUFFIXES) and _is_plain(folder, name, log))
    else:
        root = Path(pattern).resolve()
        found = image_names(root, log)
    if not found:
        raise DataError(f"{pattern}: no images there (looked for {', '.join(SUFFIXES)})")
    return root, found


def class_folders(root: Path) -> tuple[str, ...]:
    """Return the sorted names of the folders in a folder, one a class; symlinks to other folders inside it count."""
    real = root.resolve()
    return tuple(entry.name for entry in listed(root) if _is_class_folder(entry, real))


def check_class_links(root: Path) -> None:
    """Raise LeadsOutsideError where a symlink in a folder of classes leads to a folder that is not inside it."""
    real = root.resolve()
    for entry in listed(root):
        if _leads_to_folder(entry) and not _is_class_folder(entry, real):
            raise LeadsOutsideError(entry.name, real, Path(entry.path).resolve(), is_folder=True)


def _is_class_folder(entry: os.DirEntry[str], root: Path) -> bool:
    """Return whether an entry of the resolved folder `root` is a folder, or leads to one that is inside.

    Not to `root` itself: such a class would hold the images of all the others.
    """
    return entry.is_dir(follow_symlinks=False) or (
        _leads_to_folder(entry) and root in Path(entry.path).resolve().parents
    )


def image_names(root: Path, log: ProblemLog, labels: str = "", *, of_classes: bool = False) -> list[str]:
    """Return the sorted names (relative, with `/`) of the image files under a folder; report what is passed over.

    `labels`: the ending of files that belong to the images and may lie beside them. `of_classes`: as in `walk`; raises
    as `check_class_links` does.
    """
    if of_classes:
        check_class_links(root)
    names: list[str] = []
    other = 0
    for path in walk(root, log, of_classes=of_classes):
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() not in SUFFIXES:
            other += not (labels and name.endswith(labels))
        elif _is_plain(root, name, log):
            names.append(name)
    if other:
        message = f"{plural(other, 'file with another ending was', 'files with other endings were')} passed over"
        log.warn("other-files", root, "", message, f"images must end in {', '.join(SUFFIXES)}")
    return sorted(names)


def walk(folder: Path, log: ProblemLog, *, of_classes: bool = False) -> Iterator[Path]:
    """Yield the files under a folder that count, in any order. `of_classes`: in its `class_folders` too.

    Raises DataError where a folder cannot be listed or a symlink not be followed: a part of the data would silently be
    missing.
    """
    waiting = [folder]  # no recursion: an archive of deeply nested folders would exhaust it
    real = folder.resolve() if of_classes else folder
    while waiting:
        place = waiting.pop()
        is_top = of_classes and place == folder
        for entry in listed(place):
            if entry.is_dir(follow_symlinks=False) or (is_top and _is_class_folder(entry, real)):
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


# --- globs ------------------------------------------------------------------------------------------------------------


def matching(pattern: str, images: Path | None = None) -> tuple[Path, Iterator[str]]:
    """Return the folder before a glob's first wildcard, and the names of the files below it that match, in any order.

    A folder is read once for what is left of the pattern, by its own name where that matches: symlinks add what is
    found by them alone, and circles end. Raises DataError, as the names are taken, where `walk` does, and
    LeadsOutsideError where such a symlink leads out of the folder, or of `images` where that is given.
    """
    parts = Path(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    if not root.is_dir():
        raise DataError(f"{pattern}: {root} is not a folder")
    return root, _matching(root, parts[fixed:], (images or root).resolve())


def _matching(root: Path, pattern: _Parts, limit: Path) -> Iterator[str]:
    folders, links = [("", os.path.realpath(root), {pattern})], deque[tuple[str, set[_Parts]]]()
    done: defaultdict[str, set[_Parts]] = defaultdict(set)  # what was looked for in a folder, by its real path
    while folders or links:
        if is_link := not folders:  # last: what they lead to may have been found without them
            below, lefts = links.popleft()
            real = os.path.realpath(root / below)
        else:
            below, real, lefts = folders.pop()
        lefts = {opened for left in lefts for opened in _opened(left)} - done[real]
        if is_link and not Path(real).is_relative_to(limit):
            raise LeadsOutsideError(below, limit, Path(real), is_folder=True)
        done[real] |= lefts
        for entry in listed(root / below) if lefts else ():
            name = os.path.join(below, entry.name)
            deeper = {after for left in lefts for after in _after(left, entry.name)}
            if not deeper or not _leads_to_folder(entry):
                if any(len(left) == 1 and fnmatchcase(entry.name, left[0]) for left in lefts) and os.path.isfile(entry):
                    yield name
            elif entry.is_symlink():
                links.append((name, deeper))
            else:
                folders.append((name, os.path.join(real, entry.name), deeper))


def _opened(left: _Parts) -> Iterator[_Parts]:
    """Yield what is looked for in a folder itself: `**` may stand for no folder at all."""
    yield left
    while left[0] == "**" and len(left) > 1:
        left = left[1:]
        yield left


def _after(left: _Parts, name: str) -> Iterator[_Parts]:
    """Yield what is looked for in the folder `name`."""
    if left[0] == "**":
        yield left
    elif len(left) > 1 and fnmatchcase(name, left[0]):
        yield left[1:]
