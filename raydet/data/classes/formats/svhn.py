"""SVHN, cropped digits, as published: `train_32x32.mat`, `extra_32x32.mat`, `test_32x32.mat` (MATLAB 5)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet.data.classes.formats.limits import MOST_DEFLATED, check_count, check_unpacked
from raydet.data.classes.formats.mat5 import BrokenFile, Variable, list_variables
from raydet.data.classes.formats.shown import quoted
from raydet.data.classes.formats.subset import chosen
from raydet.data.classes.table import ImageTable, raw_table
from raydet.errors import DataError

_CLASS_NAMES = tuple("0123456789")


def has_svhn(folder: Path) -> bool:
    """Return whether a folder holds SVHN files."""
    return bool(_files(folder))


def read_svhn(path: Path, subset: str | None) -> ImageTable:
    """Read one file, or the one in a folder that `subset` names; label 10 is the digit 0. Ids are `train_32x32/17`.

    Raises DataError where the file is damaged or holds something else.
    """
    file = path
    if path.is_dir():
        there = _files(path)
        if not there:
            raise DataError(f"{path}: no SVHN files there; looked for train_32x32.mat, extra_32x32.mat, test_32x32.mat")
        _, file = chosen(path, subset, there)
    pixels, digits = _load(file)
    if odd := sorted(set(np.unique(digits).tolist()) - set(range(1, 11))):
        raise DataError(f"{file}: labels {', '.join(map(str, odd[:10]))}; expected 1 to 10, where 10 is the digit 0")
    return raw_table(
        ids=[f"{file.stem}/{row}" for row in range(len(digits))],
        pixels=np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)),
        labels=digits.astype(np.int64) % 10,
        class_names=_CLASS_NAMES,
        parts=[(str(file), len(digits))],
    )


def _files(folder: Path) -> dict[str, Path]:
    files = {subset: folder / f"{subset}_32x32.mat" for subset in ("train", "extra", "test")}
    return {subset: file for subset, file in files.items() if file.is_file()}


def _load(file: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return X uint8 `[H, W, 3, N]` and y `[N]`; their sizes are checked before they are read."""
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    try:
        variables = list_variables(file)
        _check(file, variables)
        found = {variable.name: variable for variable in variables}
        pixels, digits = found["X"].read(), found["y"].read().reshape(-1)
    except BrokenFile as error:
        raise DataError(f"{file}: truncated or damaged, or not MATLAB 5 ({error}); download it again") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    if pixels.dtype != np.uint8:
        raise DataError(f"{file}: X is stored as {pixels.dtype}, expected uint8; download it again")
    return pixels, digits


def _check(file: Path, variables: list[Variable]) -> None:
    """Refuse what is not SVHN, or too large, by what the file announces."""
    x, y = ([variable for variable in variables if variable.name == name] for name in ("X", "y"))
    is_svhn = [one.kind for one in x] == ["uint8"] and len(y) == 1 and bool(y[0].type)
    if not is_svhn or len(x[0].shape) != 4 or x[0].shape[2] != 3 or len(y[0].shape) != 2 or 1 not in y[0].shape:
        there = ", ".join(f"{quoted([one.name])} {list(one.shape)} {one.kind}" for one in variables[:10])
        raise DataError(
            f"{file}: holds {there or 'nothing'}; expected X [height, width, 3, images] uint8 and y, each once"
        )
    shape, num_labels = x[0].shape, max(y[0].shape)
    if num_labels != shape[3]:
        raise DataError(f"{file}: {shape[3]:,} images, but {num_labels:,} labels")
    size = math.prod(shape)
    if size > file.stat().st_size * MOST_DEFLATED:
        announced = f"X {list(shape)} is announced"
        raise DataError(f"{file}: {announced}, more than a file of this size can hold; download it again")
    check_count(file, shape[3])
    check_unpacked(file, size, "no published SVHN file is that large: download it again")
