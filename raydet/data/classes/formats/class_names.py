"""Names of classes, from a JSON list or from the labels themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet.data.classes.formats.shown import quoted, shown
from raydet.data.classes.table import NO_LABEL
from raydet.data.problems import ProblemLog
from raydet.errors import DataError

_MAX_BYTES = 1 << 24  # of a list of names


def read_class_names(file: Path) -> tuple[str, ...]:
    """Read a JSON list of class names in label order. Raises DataError for anything else."""
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise DataError(f"{file}: more than {_MAX_BYTES:,} bytes; expected a JSON list of class names")
        content = file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{file}: no such file (class_names)") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    return parse_class_names(content, str(file))


def parse_class_names(text: bytes, where: str) -> tuple[str, ...]:
    """Parse the same from JSON text; `where` is what messages call it."""
    try:
        names = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({shown(error)}); expected a list of class names") from None
    return checked_class_names(names, where)


def checked_class_names(names: Any, where: str) -> tuple[str, ...]:
    """Return a list of class names as a tuple. Raises DataError where it is none."""
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f'{where}: expected a list of class names in label order, such as ["cat", "dog"]')
    return tuple(names)


def numbered_by_value(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number labels that have no names: the classes are the numbers that occur, and are called by them.

    Negative values stay as they are.
    """
    found = np.unique(values[values >= 0])
    labels = np.where(values >= 0, np.searchsorted(found, values), values)
    return labels.astype(np.int64), tuple(str(value) for value in found.tolist())


def numbered_by_name(
    names: list[str | None], class_names: tuple[str, ...] | None, source: str, log: ProblemLog
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number labels that are names, by `class_names` or in alphabetic order; a missing one is NO_LABEL."""
    found = {name for name in names if name is not None}
    known = class_names if class_names is not None else tuple(sorted(found))
    number_of: dict[str | None, int] = {name: number for number, name in enumerate(known)}
    for name in sorted(found.difference(known)):
        message = f"the label {quoted([name])} is not in the list of classes ({quoted(known[:10])})"
        log.error("label-unknown", source, "", message, "correct the label or the list")
    number_of[None] = NO_LABEL
    return np.array([number_of.get(name, NO_LABEL) for name in names], dtype=np.int64), known
