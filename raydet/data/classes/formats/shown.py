"""Text out of foreign files in messages: it may hold escape sequences for the terminal, and have any length."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from raydet.errors import DataError
from raydet.text import is_plain

_MOST_NAMES = 20
_MOST_LETTERS = 60  # of one name


def quoted(names: Iterable[object]) -> str:
    """Return the first few names of a file, each in quotes and cut, control characters spelled out."""
    return ", ".join(repr(str(name)[:_MOST_LETTERS]) for name in islice(names, _MOST_NAMES))


def shown(text: object, most: int = 200) -> str:
    """Return what a library says about a file: cut, in quotes where it holds control characters."""
    cut = str(text)[:most]
    return cut if is_plain(cut) else ascii(cut)


def check_file_name(name: str, folder: str | Path) -> None:
    """Raise DataError where a file that was found below `folder` has a name that no message can hold."""
    if not is_plain(name):
        raise DataError(
            f"{folder}: the file name {ascii(name)} is not valid UTF-8 or contains a control character; rename the file"
        )
