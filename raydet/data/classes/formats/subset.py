"""Which part of a published data set is meant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from raydet.errors import DataError

T = TypeVar("T")


def chosen(path: Path, subset: str | None, there: Mapping[str, T]) -> tuple[str, T]:
    """Return the subset named, or the only one there is. Raises DataError where there are several to choose from."""
    names = ", ".join(there)
    if subset is None:
        if len(there) == 1:
            return next(iter(there.items()))
        raise DataError(f"{path}: holds {names}; say which one with `subset`")
    if subset not in there:
        raise DataError(f"{path}: no subset {subset!r} (there is: {names})")
    return subset, there[subset]
