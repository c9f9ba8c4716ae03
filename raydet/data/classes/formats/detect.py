"""From an `ImageSetConfig` to an `ImageTable`: decide on the format, then call its reader."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Literal

from raydet.config.class_data import ImageSetConfig, PatternsConfig
from raydet.data.classes.formats.cifar import find_cifar, read_cifar
from raydet.data.classes.formats.folder import read_image_folder
from raydet.data.classes.formats.idx import has_idx, read_idx
from raydet.data.classes.formats.parquet import read_parquet
from raydet.data.classes.formats.parquet_columns import has_column
from raydet.data.classes.formats.parquet_files import parquet_files, parquet_in
from raydet.data.classes.formats.svhn import has_svhn, read_svhn
from raydet.data.classes.synthetic import patterns_table
from raydet.data.classes.table import ImageTable
from raydet.data.folder import SUFFIXES, check_class_links
from raydet.data.layouts import holds_images
from raydet.data.problems import ProblemLog
from raydet.errors import DataError

Format = Literal["cifar10", "cifar100", "svhn", "folder", "idx", "parquet", "patterns"]
_LOOKED_INTO = 5  # Parquet files of a folder, to see whether they hold images


def read_images(config: ImageSetConfig, log: ProblemLog, *, role: str = "data") -> ImageTable:
    """Read an image set of any format; `role`: what the set is for, as in `detect_format`.

    Broken entries are reported to `log` and left out. Raises DataError where the set as a whole cannot be read.
    """
    path = Path(config.path).expanduser()
    format = detect_format(config, role)
    if format not in ("folder", "patterns") and path.is_dir() and holds_images(path):
        message = f"image files lie there too and are not read, as {format} is"
        log.warn("images-ignored", path, "", message, "to read them instead, set `format: folder`")
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


def detect_format(config: ImageSetConfig, role: str = "data") -> Format:
    """Return `config.format`, or what `auto` decides from the path and what the set is for (labeled, unlabeled, ...).

    Raises DataError that says what was looked for, or which class folder leads to another place.
    """
    if config.format != "auto":
        return config.format
    if config.path == "patterns":
        return "patterns"
    path = Path(config.path).expanduser()
    if path.is_dir():
        return _format_of_folder(path, config, role)
    if not path.exists():
        if glob.has_magic(config.path):
            return "parquet" if config.path.endswith(".parquet") else "folder"
        hint = "; the generated `shapes` have boxes, `patterns` have classes" if config.path == "shapes" else ""
        raise DataError(f"{path}: no such file or folder{hint}")
    by_suffix: dict[str, Format] = {".parquet": "parquet", ".mat": "svhn"}
    if path.suffix.lower() in by_suffix:
        return by_suffix[path.suffix.lower()]
    raise DataError(f"{path}: format unknown; give a .parquet or .mat file, or the folder of CIFAR or IDX files")


def _format_of_folder(folder: Path, config: ImageSetConfig, role: str) -> Format:
    held = _held_by_files(folder, config)
    has_images = holds_images(folder)
    if held is not None and not (has_images and role == "unlabeled"):
        return held
    if held is not None:
        choice = f"say which with `format: {held}` or `format: folder`"
        raise DataError(f"{folder}: holds both image files and images in other files ({held}); {choice}")
    if has_images:
        return "folder"
    check_class_links(folder)  # which may be why there is nothing
    raise DataError(
        f"{folder}: no image set found there; looked for data_batch_1 or train (CIFAR), *_32x32.mat (SVHN), "
        f"*-images-idx3-ubyte (IDX), *.parquet, and images in a folder a class ({', '.join(SUFFIXES)})"
    )


def _held_by_files(folder: Path, config: ImageSetConfig) -> Format | None:
    """Return the format of files that hold many images each, where there are such files."""
    if (cifar := find_cifar(folder)) is not None:
        return cifar
    if has_svhn(folder):
        return "svhn"
    if has_idx(folder):
        return "idx"
    places = [folder] if config.subset is None else [folder, folder / config.subset]
    files = [file for place in places if place.is_dir() for file in parquet_in(place)]
    # Beside image files, a table without images is about them; alone, its reader says what is missing.
    is_set = any(has_column(file, config.image_column) for file in files[:_LOOKED_INTO])
    return "parquet" if is_set or (files and not holds_images(folder)) else None
