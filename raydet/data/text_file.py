"""The text files of a data set: lists, class names, descriptions."""

from __future__ import annotations

from pathlib import Path

from raydet.errors import DataError


def text_of(file: Path, if_missing: str = "correct the path") -> str:
    """Return what a file in UTF-8 says, without a byte order mark. Raises DataError where it cannot be read so."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; {if_missing}") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text: {error}; save it as UTF-8") from None
