"""SVHN, cropped digits, as published: `train_32x32.mat`, `extra_32x32.mat`, `test_32x32.mat` (MATLAB 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from raydet.data.images.formats.subset import chosen
from raydet.data.images.table import ImageTable, raw_table
from raydet.errors import DataError, UserError

_CLASS_NAMES = tuple("0123456789")
_MOST_DEFLATED = 1_040  # zlib shrinks by no more: what a file can hold at most


def has_svhn(folder: Path) -> bool:
    """Return whether a folder holds SVHN files."""
    return bool(_files(folder))


def read_svhn(path: Path, subset: str | None) -> ImageTable:
    """Read one file, or the one in a folder that `subset` names; label 10 is the digit 0. Ids are `train_32x32/17`.

    Raises DataError where the file is damaged or holds something else, UserError where SciPy is not installed.
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


def _load(file: Path) -> tuple[Any, Any]:
    """Return X uint8 `[H, W, 3, N]` and y `[N]`; their sizes are checked before they are read."""
    try:
        from scipy.io import loadmat, whosmat
    except ImportError:
        raise UserError(f"{file}: SVHN's .mat files need SciPy; install it: pip install 'raydet[svhn]'") from None
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    try:
        found = {name: (shape, kind) for name, shape, kind in whosmat(str(file))}
        _check(file, found)
        content = loadmat(str(file), variable_names=["X", "y"])
        pixels, digits = content["X"], np.asarray(content["y"]).reshape(-1)
    except DataError:
        raise
    except Exception as error:  # SciPy's parser raises nearly anything on damaged files
        raise DataError(f"{file}: truncated or damaged, or not MATLAB 5 ({error}); download it again") from None
    if pixels.dtype != np.uint8 or digits.dtype.kind not in "uif" or pixels.shape[3] != len(digits):
        raise DataError(f"{file}: X or y is not what SVHN holds; download it again")
    return pixels, digits


def _check(file: Path, found: dict[str, tuple[tuple[int, ...], str]]) -> None:
    x, x_kind = found.get("X", ((), ""))
    y, _ = found.get("y", ((), ""))
    if len(x) != 4 or x[2] != 3 or x_kind != "uint8" or len(y) != 2 or 1 not in y:
        there = ", ".join(f"{name} {list(shape)} {kind}" for name, (shape, kind) in list(found.items())[:10])
        raise DataError(f"{file}: holds {there or 'nothing'}; expected X [height, width, 3, images] uint8 and y")
    if max(y) != x[3]:
        raise DataError(f"{file}: {x[3]:,} images, but {max(y):,} labels")
    if np.prod(x, dtype=np.float64) > file.stat().st_size * _MOST_DEFLATED:
        raise DataError(f"{file}: X {list(x)} is announced, more than a file of this size can hold; download it again")
