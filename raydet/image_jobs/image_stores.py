"""Where images lie: a local folder, or a folder of any file system that pyarrow knows (s3://, gs://, ...)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pyarrow import fs
from torch import Tensor

from raydet.data.decode import FULL_RANGE, decode_bytes, read_file
from raydet.data.folder import is_passed_over
from raydet.data.paths import checked_name, resolve_inside
from raydet.errors import DataError
from raydet.faults import first_line

READ_TRIES = 3
_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that was read."""

    name: str  # relative to the root, with `/`
    pixels: Tensor  # uint8 `[3, H, W]`
    num_bytes: int  # of its file


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A folder that every process sees under the same path."""

    path: Path  # resolved
    gray16_range: tuple[int, int] = FULL_RANGE  # the values of 16-bit pictures that become 0 to 255
    not_entered: list[str] = field(default_factory=list, compare=False)  # symlinked folders that `walk` came by

    def __str__(self) -> str:
        return str(self.path)

    def walk(self, depth: int | None = None) -> Iterator[str]:
        """Yield the names (relative, with `/`) of all files, in no order, one folder's entry at a time.

        `depth`: how many folders deep at most, counting this one. Symlinked folders and what `is_passed_over` says
        are passed over. Raises DataError where a folder cannot be listed.
        """
        yield from self._walk("", depth)

    def _walk(self, folder: str, depth: int | None) -> Iterator[str]:
        try:
            with os.scandir(self.path / folder) as entries:
                for entry in entries:
                    if is_passed_over(entry.name):
                        continue
                    if not entry.is_dir():
                        yield folder + entry.name
                    elif depth != 1 and entry.is_symlink():
                        self.not_entered.append(folder + entry.name)
                    elif depth != 1:
                        yield from self._walk(f"{folder}{entry.name}/", depth and depth - 1)
        except OSError as error:
            raise DataError(f"{self.path / folder}: cannot be listed: {error.strerror or error}") from None

    def picture(self, name: str) -> Picture:
        """Read an image. Raises DataError where it cannot be read, or lies outside the root."""
        path = resolve_inside(self.path, name)
        content = read_file(path)
        return Picture(name, decode_bytes(content, str(path), self.gray16_range), len(content))


@dataclass(frozen=True, slots=True)
class RemoteStore:
    """A folder of a pyarrow file system."""

    uri: str
    files: Any  # pyarrow.fs.FileSystem; travels to actors by pickle
    base: str  # the folder, in the file system's own words
    gray16_range: tuple[int, int] = FULL_RANGE
    not_entered: tuple[str, ...] = ()  # there are no symlinks

    def __str__(self) -> str:
        return self.uri

    def walk(self, depth: int | None = None) -> Iterator[str]:
        """Yield as `LocalStore.walk` does. pyarrow lists a folder at once: memory follows the largest folder."""
        yield from self._walk("", depth)

    def _walk(self, folder: str, depth: int | None) -> Iterator[str]:
        try:
            entries = self.files.get_file_info(fs.FileSelector(f"{self.base}/{folder}".rstrip("/")))
        except OSError as error:
            raise DataError(f"{self.uri}: {folder or 'the folder'} cannot be listed: {error}") from None
        for entry in entries:
            if is_passed_over(entry.base_name):
                continue
            if entry.type != fs.FileType.Directory:
                yield folder + entry.base_name
            elif depth != 1:
                yield from self._walk(f"{folder}{entry.base_name}/", depth and depth - 1)

    def picture(self, name: str) -> Picture:
        """Read an image. Raises DataError where it cannot be read after some tries."""
        path = f"{self.base}/{checked_name(name)}"
        for attempt in range(1, READ_TRIES + 1):
            try:
                with self.files.open_input_file(path) as stream:
                    content = stream.read()
                return Picture(name, decode_bytes(content, path, self.gray16_range), len(content))
            except FileNotFoundError:
                raise DataError(f"{path}: no such image file; copy it there or correct the name") from None
            except OSError as error:
                if attempt == READ_TRIES:
                    raise DataError(f"{path}: cannot be read ({READ_TRIES} tries): {error}") from None
                time.sleep(_RETRY_S * attempt)
        raise AssertionError("unreachable")


ImageStore = LocalStore | RemoteStore


def is_uri(text: str) -> bool:
    """Return whether a text is meant as scheme://..."""
    return "://" in text


def local_path(text: str) -> Path | None:
    """Return the path that a text or a file:// URI means; None for other URIs."""
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    return None if is_uri(text) else Path(text)


def open_store(text: str) -> ImageStore:
    """Return the folder of a local path or a URI. Raises DataError where there is none, or it cannot be reached."""
    if (folder := local_path(text)) is not None:
        if not folder.is_dir():
            raise DataError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
        return LocalStore(folder.resolve())
    if urlsplit(text).password is not None:
        scheme, _, rest = text.partition("://")
        raise DataError(
            f"{scheme}://...@{rest.rpartition('@')[2]}: a URI with a password or a secret key would be written into "
            f"the output folder; give it without, and credentials as the provider's tools take them (for S3 the "
            f"environment or a profile)"
        )
    try:
        files, base = fs.FileSystem.from_uri(text)
        kind = files.get_file_info(base).type
    except (OSError, ValueError) as error:  # pyarrow's own errors are among both
        raise DataError(f"{text}: cannot be reached: {first_line(error)}; check scheme, name and credentials") from None
    if kind != fs.FileType.Directory:
        what = "no such folder" if kind == fs.FileType.NotFound else "not a folder (a list file must be a local one)"
        raise DataError(f"{text}: {what}")
    return RemoteStore(text.rstrip("/"), files, base.rstrip("/"))
