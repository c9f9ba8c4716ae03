"""Text lists of published sets: a key and some words a line."""

from __future__ import annotations

from pathlib import Path

from raydet.data.text_file import text_of
from raydet.errors import DataError

_MOST_BYTES = 1 << 28


def lines_of(file: Path) -> list[str]:
    """Return the lines of a text file that are not empty. Raises DataError where it cannot be read."""
    if file.is_file() and file.stat().st_size > _MOST_BYTES:
        raise DataError(f"{file}: more than {_MOST_BYTES:,} bytes; expected a list")
    return [line for line in text_of(file, "is the data set complete?").splitlines() if line.strip()]


def numbered_lines(file: Path, count: int) -> dict[str, tuple[str, ...]]:
    """Return key -> `count` words of a list with one entry a line, e.g. `17 60.0 27.0 325.0 304.0`.

    With one word, all that follows the key is one: names may hold spaces. Raises DataError that names a line which does
    not fit.
    """
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines_of(file), start=1):
        words = line.split(None, 1) if count == 1 else line.split()
        if len(words) != count + 1:
            expected = f"{count} word{'s' * (count > 1)}"
            raise DataError(f"{file}, line {number}: expected a number and {expected}, got {line[:60]!r}")
        if words[0] in found:
            raise DataError(f"{file}, line {number}: {words[0]!r:.40} is there twice")
        found[words[0]] = tuple(word.strip() for word in words[1:])
    return found
