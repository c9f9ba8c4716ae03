"""Which Parquet files a path means: one, a glob, or those of a folder that belong to a subset."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from raydet.data.classes.formats.shown import check_file_name, quoted
from raydet.data.folder import files_ending, matching
from raydet.data.problems import ProblemLog
from raydet.errors import DataError

_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "unlabeled", "extra"}


def parquet_files(pattern: str, subset: str | None) -> list[Path]:
    """Return the files in the order of their names.

    In a folder, `subset` takes `SUBSET.parquet`, `SUBSET-*.parquet` and those in the folder SUBSET. Raises DataError
    where there is none, where a folder seems to hold several subsets and none was named, for a subset of a file, and as
    `matching` does.
    """
    path = Path(pattern)
    if path.is_dir():
        return _of_folder(path, subset)
    if subset is not None:
        raise DataError(f"{pattern}: subset {subset!r} is for folders of several files, and this is none; remove it")
    if path.exists() or not glob.has_magic(pattern):
        return [path]
    root, names = matching(pattern)
    files = sorted(root / name for name in names)
    if not files:
        raise DataError(f"{pattern}: no file there")
    for file in files:
        check_file_name(str(file), pattern)
    return files


def _of_folder(folder: Path, subset: str | None) -> list[Path]:
    files = parquet_in(folder)
    if subset is not None:
        inside = parquet_in(folder / subset) if (folder / subset).parent == folder else []
        chosen = [file for file in files if _first_word(file) == subset] + inside
        if not chosen:
            names = quoted(file.name for file in files[:10]) or "no .parquet file"
            raise DataError(f"{folder}: nothing for subset {subset!r} (there is: {names})")
        return chosen
    splits = sorted({_first_word(file) for file in files} & _SPLITS)
    if len(splits) > 1:
        raise DataError(f"{folder}: holds the subsets {', '.join(splits)}; name one with `subset`")
    if not files:
        raise DataError(f"{folder}: no .parquet file there")
    return files


def parquet_in(folder: Path) -> list[Path]:
    """Return the files directly in a folder, sorted by name."""
    files = files_ending(folder, ".parquet", ProblemLog(), deep=False) if folder.is_dir() else []
    for file in files:
        check_file_name(file.name, folder)
    return files


def _first_word(file: Path) -> str:
    """Return `train` for train.parquet, train-00000-of-00002.parquet and train_0.parquet."""
    return re.split(r"[-_.]", file.name, maxsplit=1)[0]
