"""From an `ImageSetConfig` to an `ImageTable`: decide on the format, then call its reader."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Literal

from raydet.config.class_data import ImageSetConfig, PatternsConfig
from raydet.data.classes.formats.cifar import find_cifar, read_cifar
from raydet.data.classes.formats.folder import has_images, read_image_folder
from raydet.data.classes.formats.idx import has_idx, read_idx
from raydet.data.classes.formats.parquet import read_parquet
from raydet.data.classes.formats.parquet_files import parquet_files
from raydet.data.classes.formats.svhn import has_svhn, read_svhn
from raydet.data.classes.synthetic import patterns_table
from raydet.data.classes.table import ImageTable
from raydet.data.folder import SUFFIXES
from raydet.data.problems import ProblemLog
from raydet.errors import DataError

Format = Literal["cifar10", "cifar100", "svhn", "folder", "idx", "parquet", "patterns"]


def read_images(config: ImageSetConfig, log: ProblemLog) -> ImageTable:
    """Read an image set of any format.

    Broken entries are reported to `log` and left out. Raises DataError where the set as a whole cannot be read.
    """
    path = Path(config.path).expanduser()
    format = detect_format(config)
    if format == "patterns":
        return patterns_table(config.patterns or PatternsConfig())
    if format == "parquet":
        return read_parquet(parquet_files(str(path), config.subset), config, log)
    if format == "idx":
        return read_idx(path, config, log)
    if format == "svhn":
        return read_svhn(path, config.subset)
    if format == "folder":
        return read_image_folder(path, config.subset, log)
    return read_cifar(path, format, config.subset)


def detect_format(config: ImageSetConfig) -> Format:
    """Return `config.format`, or what `auto` decides from the path. Raises DataError that says what was looked for."""
    if config.format != "auto":
        return config.format
    if config.path == "patterns":
        return "patterns"
    path = Path(config.path).expanduser()
    if path.is_dir():
        return _format_of_folder(path, config.subset)
    if not path.exists():
        if glob.has_magic(config.path):
            return "parquet" if config.path.endswith(".parquet") else "folder"
        hint = "; the generated `shapes` have boxes, `patterns` have classes" if config.path == "shapes" else ""
        raise DataError(f"{path}: no such file or folder{hint}")
    by_suffix: dict[str, Format] = {".parquet": "parquet", ".mat": "svhn"}
    if path.suffix.lower() in by_suffix:
        return by_suffix[path.suffix.lower()]
    raise DataError(f"{path}: format unknown; give a .parquet or .mat file, or the folder of CIFAR or IDX files")


def _format_of_folder(folder: Path, subset: str | None) -> Format:
    if (cifar := find_cifar(folder)) is not None:
        return cifar
    if has_svhn(folder):
        return "svhn"
    if has_idx(folder):
        return "idx"
    if any(folder.glob("*.parquet")) or (subset and any((folder / subset).glob("*.parquet"))):
        return "parquet"
    if has_images(folder):
        return "folder"
    raise DataError(
        f"{folder}: no image set found there; looked for data_batch_1 or train (CIFAR), *_32x32.mat (SVHN), "
        f"*-images-idx3-ubyte (IDX), *.parquet, and images in a folder a class ({', '.join(SUFFIXES)})"
    )
