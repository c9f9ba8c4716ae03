"""SVHN, cropped digits, as published: `train_32x32.mat`, `extra_32x32.mat`, `test_32x32.mat` (MATLAB 5)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raydet.data.classes.formats.published import check_published
from raydet.data.classes.formats.subset import chosen
from raydet.data.classes.table import ImageTable, raw_table
from raydet.errors import DataError

_CLASS_NAMES = tuple("0123456789")


def has_svhn(folder: Path) -> bool:
    """Return whether a folder holds SVHN files."""
    return bool(_files(folder))


def read_svhn(path: Path, subset: str | None) -> ImageTable:
    """Read one file, or the one in a folder that `subset` names; label 10 is the digit 0. Ids are `train_32x32/17`.

    Raises DataError where the file is not the published one.
    """
    file = path
    if path.is_dir():
        there = _files(path)
        if not there:
            raise DataError(f"{path}: no SVHN files there; looked for train_32x32.mat, extra_32x32.mat, test_32x32.mat")
        _, file = chosen(path, subset, there)
    pixels, digits = _load(file)
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


def _load(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return X `[H, W, 3, N]` and y `[N]` of a published file; nothing else is opened."""
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DataError(f"{file}: SVHN's files are read with SciPy: pip install 'raydet[svhn]'") from None
    check_published(file)
    content = loadmat(file)
    return content["X"], content["y"].reshape(-1)
