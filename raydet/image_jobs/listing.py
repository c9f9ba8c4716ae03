"""The images of a job as a sorted file of names: any number of them, in memory that does not grow with it.

listing.jsonl holds one JSON string per line, so that every name, however odd, is one line. Sorted by that text and
without repetitions, it is the same file whatever order a file system or a list gives.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import heapq
import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from raydet.data.folder import SUFFIXES
from raydet.errors import DataError
from raydet.faults import writing
from raydet.files import replacing
from raydet.image_jobs.image_stores import ImageStore, is_uri, local_path, open_store

RUN_LINES = 200_000  # names sorted in memory at once, some 40 MB
_MAX_LINE = 8192  # characters; no file system has longer paths


@dataclass(frozen=True, slots=True)
class Images:
    """What the user named: image files of one store."""

    given: str
    store: ImageStore
    pattern: tuple[str, ...] = ("**", "*")  # parts of a glob below the root
    list_file: Path | None = None  # instead of a pattern
    listed_below: Path | None = None  # of a list file: the root as the user names it, maybe through a symlink

    def names(self) -> Iterator[str]:
        """Yield the names, relative to the root where they lie below it, in no particular order.

        What stands in a list file is not looked for here: a missing image is noticed when its turn comes.
        """
        if self.list_file is not None:
            yield from _listed(self.list_file, _beginnings(self.store, self.listed_below))
            return
        depth = None if "**" in self.pattern else len(self.pattern)
        for name in self.store.walk(depth):
            if name.lower().endswith(SUFFIXES) and _matches(tuple(name.split("/")), self.pattern):
                yield name


def open_images(given: str, root: str | None = None) -> Images:
    """Find out what `given` is: a folder, a glob, an image, a text file with a path a line, or a pyarrow.fs URI.

    `root`, for a list file: the folder its paths are relative to (default: the file's own). Raises DataError where
    there is no such thing or it cannot be reached.
    """
    path = Path(given)
    is_list = not is_uri(given) and path.is_file() and path.suffix.lower() not in SUFFIXES
    if root is not None and not is_list:
        raise DataError(f"--root {root}: only for a list file, and {given} is none")
    if is_list:
        below = root or str(path.parent)
        return Images(given, open_store(below), list_file=path, listed_below=local_path(below))
    if not is_uri(given):
        if path.is_file():
            return Images(given, open_store(str(path.parent)), (glob.escape(path.name),))
        if path.is_dir() or not glob.has_magic(given):
            return Images(given, open_store(given))
    elif "*" not in given:  # [ and ? occur in URIs
        return Images(given, open_store(given))
    # PurePosixPath would make s3:/ of s3://
    head, parts = given.split("://", 1)[0] + "://" if is_uri(given) else "", given.split("://")[-1].split("/")
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    folder = "/".join(parts[:fixed]) or ("/" if given.startswith("/") else "." if not head else "")
    return Images(given, open_store(head + folder), tuple(part for part in parts[fixed:] if part))


@dataclass(frozen=True, slots=True)
class Listing:
    """A finished listing file."""

    file: Path
    count: int
    digest: str  # SHA-256 of the file

    def lines(self) -> Iterator[str]:
        """Yield the lines (JSON strings, with the line end)."""
        with self.file.open(encoding="utf-8") as stream:
            yield from stream


def write_listing(names: Iterable[str], file: Path, *, run_lines: int = RUN_LINES) -> Listing:
    """Write the names as a listing, sorted and each once."""
    count, content, last = 0, hashlib.sha256(), ""
    lines = (json.dumps(name) + "\n" for name in names)
    file.parent.mkdir(parents=True, exist_ok=True)
    with writing(file), TemporaryDirectory(prefix=".sorting-", dir=file.parent) as aside, replacing(file) as stream:
        for line in _in_order(lines, Path(aside), run_lines):
            if line != last:
                encoded = line.encode()
                stream.write(encoded)
                content.update(encoded)
                count, last = count + 1, line
    return Listing(file, count, content.hexdigest())


def differences(old: Listing, new: Listing) -> tuple[list[str], list[str], int, int]:
    """Return up to three names only `new` has, up to three only `old` has, and how many there are of each."""
    added: list[str] = []
    removed: list[str] = []
    num_added = num_removed = 0
    tagged = heapq.merge(((line, 0) for line in old.lines()), ((line, 1) for line in new.lines()))
    for line, group in itertools.groupby(tagged, key=lambda item: item[0]):
        sides = [side for _, side in group]
        if sides == [1]:
            num_added += 1
            added += [json.loads(line)] if num_added <= 3 else []
        elif sides == [0]:
            num_removed += 1
            removed += [json.loads(line)] if num_removed <= 3 else []
    return added, removed, num_added, num_removed


def _in_order(lines: Iterator[str], folder: Path, run_lines: int) -> Iterator[str]:
    """Sort lines of ASCII through files: at most `run_lines` of them are in memory at once."""
    runs: list[Path] = []
    while run := sorted(itertools.islice(lines, run_lines)):
        file = folder / str(len(runs))
        file.write_text("".join(run), encoding="ascii")
        runs.append(file)
    with ExitStack() as stack:
        yield from heapq.merge(*(stack.enter_context(file.open(encoding="ascii")) for file in runs))


def _beginnings(store: ImageStore, named: Path | None) -> tuple[str, ...]:
    """Return what full paths below the root begin with: the root as it is, and as the user names it."""
    texts = (str(store),) if named is None else (str(named.absolute()), str(store))
    return tuple(text.rstrip("/") + "/" for text in texts)  # of / too


def _listed(file: Path, beginnings: tuple[str, ...]) -> Iterator[str]:
    try:
        # Bytes that are no UTF-8 become names that no file can have; they are listed as skipped like all bad names.
        with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
            for number in itertools.count(1):
                line = stream.readline(_MAX_LINE)
                if not line:
                    return
                if "\0" in line or len(line) == _MAX_LINE:
                    raise DataError(f"{file}, line {number}: not a path; expected a text file with one path a line")
                if name := line.rstrip("\r\n"):
                    yield _relative(name, beginnings)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None


def _relative(name: str, beginnings: tuple[str, ...]) -> str:
    """Cut the root off a full path below it; others stay, and are refused when they are read."""
    for beginning in beginnings:
        if name.startswith(beginning):
            return name.removeprefix(beginning)
    return str(PurePosixPath(name)) if name.startswith("./") else name


def _matches(name: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Return whether the parts of a name fit the parts of a glob; `**` is any number of folders."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        rest = pattern[1:] or ("*",)
        return any(_matches(name[start:], rest) for start in range(len(name)))
    return bool(name) and fnmatch.fnmatchcase(name[0], pattern[0]) and _matches(name[1:], pattern[1:])
