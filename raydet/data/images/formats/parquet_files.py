"""Which Parquet files a path means: one, a glob, or those of a folder that belong to a subset."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from raydet.errors import DataError

_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "unlabeled", "extra"}


def parquet_files(pattern: str, subset: str | None) -> list[Path]:
    """Return the files in the order of their names.

    In a folder, `subset` takes `SUBSET.parquet`, `SUBSET-*.parquet` and those in the folder SUBSET. Raises DataError
    where there is none, or where a folder seems to hold several subsets and none was named.
    """
    path = Path(pattern)
    if path.is_dir():
        return _of_folder(path, subset)
    if path.exists() or not glob.has_magic(pattern):
        return [path]
    files = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if os.path.isfile(name))
    if not files:
        raise DataError(f"{pattern}: no file there")
    return files


def _of_folder(folder: Path, subset: str | None) -> list[Path]:
    files = sorted(folder.glob("*.parquet"))
    if subset is not None:
        inside = sorted((folder / subset).glob("*.parquet")) if (folder / subset).parent == folder else []
        chosen = [file for file in files if _first_word(file) == subset] + inside
        if not chosen:
            names = ", ".join(file.name for file in files[:10]) or "no .parquet file"
            raise DataError(f"{folder}: nothing for subset {subset!r} (there is: {names})")
        return chosen
    splits = sorted({_first_word(file) for file in files} & _SPLITS)
    if len(splits) > 1:
        raise DataError(f"{folder}: holds the subsets {', '.join(splits)}; name one with `subset`")
    if not files:
        raise DataError(f"{folder}: no .parquet file there")
    return files


def _first_word(file: Path) -> str:
    """Return `train` for train.parquet, train-00000-of-00002.parquet and train_0.parquet."""
    return re.split(r"[-_.]", file.name, maxsplit=1)[0]
