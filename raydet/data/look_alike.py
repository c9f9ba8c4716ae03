"""Names that differ only by what tools and file systems change: Unicode form, upper and lower case, %20 for a space."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from urllib.parse import unquote

from raydet.data.folder import SUFFIXES


def folded(name: str) -> str:
    """Return a name without what tools change; equal for names that look alike."""
    return unicodedata.normalize("NFC", unquote(name)).casefold()


def difference(name: str, other: str) -> str:
    """Say in what two names that look alike differ, in a few words."""
    first, second = (unicodedata.normalize("NFC", one) for one in (name, other))
    if first == second:
        return "in its Unicode form (one letter, or a letter and an accent)"
    if first.casefold() == second.casefold():
        return "in upper and lower case"
    if unquote(first) == unquote(second):
        return "in how odd characters are written (%20 is a space)"
    return "in its ending" if folded(Path(name).stem) == folded(Path(other).stem) else "in case and encoding"


def look_alike(root: Path, name: str) -> str | None:
    """Return the file below `root` whose name looks like `name`, or has another ending of a picture; None: no such.

    `name` must not lead out of the folder.
    """
    place, found = root, []
    for part in name.split("/"):
        if not os.path.lexists(place / part):
            part = _nearest(place, part) or ""
        if not part:
            return None
        found.append(part)
        place /= part
    other = "/".join(found)
    return other if other != name and place.is_file() else None


def _nearest(folder: Path, name: str) -> str | None:
    try:
        there = sorted(os.listdir(folder))
    except (OSError, ValueError):
        return None
    same = (other for other in there if folded(other) == folded(name))
    stem = folded(Path(name).stem)
    ending = (other for other in there if other.lower().endswith(SUFFIXES) and folded(Path(other).stem) == stem)
    return next(same, None) or next(ending, None)


def hint(root: Path, name: str) -> str:
    """Return a half sentence about the look-alike of a file that is missing; empty where there is none."""
    other = look_alike(root, name)
    return "" if other is None else f"; {other!r} lies there, which differs {difference(name, other)}"
