"""CIFAR-10 and CIFAR-100 as published: the "python version" (pickles) and the "binary version"."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raydet.data.classes.formats.published import check_published
from raydet.data.classes.formats.subset import chosen
from raydet.data.classes.table import ImageTable, raw_table
from raydet.errors import DataError

Format = Literal["cifar10", "cifar100"]
_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_MAX_FILE = 1 << 28  # bytes of a binary file; the largest published one (CIFAR-100, train) has 154 million
_MAX_NAMES = 1 << 20  # bytes of a list of class names


@dataclass(frozen=True, slots=True)
class _Layout:
    """The files of one way in which a data set is published."""

    format: Format
    home: str  # name of the folder in the archive
    subsets: Mapping[str, tuple[str, ...]]
    names: str  # the file of class names
    names_key: str = ""  # in a pickle
    labels_key: str = ""  # in a pickle
    label_bytes: int = 0  # in front of each image of a binary file; the last one counts


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_LAYOUTS = (
    _Layout(
        "cifar10", "cifar-10-batches-py", {"train": _BATCHES, "test": ("test_batch",)}, "batches.meta",
        "label_names", "labels",
    ),
    _Layout(
        "cifar100", "cifar-100-python", {"train": ("train",), "test": ("test",)}, "meta",
        "fine_label_names", "fine_labels",
    ),
    _Layout(
        "cifar10", "cifar-10-batches-bin",
        {"train": tuple(f"{name}.bin" for name in _BATCHES), "test": ("test_batch.bin",)}, "batches.meta.txt",
        label_bytes=1,
    ),
    _Layout(
        "cifar100", "cifar-100-binary", {"train": ("train.bin",), "test": ("test.bin",)}, "fine_label_names.txt",
        label_bytes=2,
    ),
)  # fmt: skip


def find_cifar(folder: Path) -> Format | None:
    """Return which CIFAR lies in a folder, or in the folder of the archive inside it."""
    found = _find(folder, None)
    return found[1].format if found else None


def read_cifar(folder: Path, format: Format, subset: str | None) -> ImageTable:
    """Read the train or test images; CIFAR-100 with its 100 fine labels. Ids are `FILE/ROW`, e.g. `data_batch_1/17`.

    Raises DataError where a file is missing, or a pickle is not the published one.
    """
    found = _find(folder, format)
    if found is None:
        wanted = " or ".join(f"{one.names} and {one.subsets['train'][0]}" for one in _LAYOUTS if one.format == format)
        raise DataError(f"{folder}: no {format} there; looked for {wanted}")
    home, layout = found
    there = {name: files for name, files in layout.subsets.items() if any((home / file).exists() for file in files)}
    files = [home / name for name in chosen(home, subset, there)[1]]
    if missing := [file.name for file in files if not file.is_file()]:
        raise DataError(f"{home}: {', '.join(missing)} is missing; unpack the archive again")
    class_names = _class_names(home / layout.names, layout)
    read = _read_binary if layout.label_bytes else _read_batch
    batches = [read(file, layout) for file in files]
    pixels = np.concatenate([data for data, _ in batches]) if len(batches) > 1 else batches[0][0]
    return raw_table(
        ids=[f"{file.stem}/{row}" for file, (data, _) in zip(files, batches, strict=True) for row in range(len(data))],
        pixels=pixels.reshape(-1, *_SHAPE),
        labels=np.concatenate([labels for _, labels in batches]),
        class_names=class_names,
        parts=[(str(file), len(data)) for file, (data, _) in zip(files, batches, strict=True)],
    )


def _find(folder: Path, format: Format | None) -> tuple[Path, _Layout] | None:
    for layout in _LAYOUTS:
        for home in (folder, folder / layout.home):
            files = [home / name for names in layout.subsets.values() for name in names]
            if layout.format == (format or layout.format) and any(file.is_file() for file in files):
                return home, layout
    return None


def _class_names(file: Path, layout: _Layout) -> tuple[str, ...]:
    if not file.is_file():
        raise DataError(f"{file.parent}: {file.name} with the class names is missing; unpack the archive again")
    if not layout.label_bytes:
        return tuple(_unpickled(file)[layout.names_key])
    if (size := file.stat().st_size) > _MAX_NAMES:
        raise DataError(f"{file}: {size:,} bytes; a list of class names has at most {_MAX_NAMES:,}")
    names = [line.strip() for line in file.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    if not names:
        raise DataError(f"{file}: no class names in it (one a line); unpack the archive again")
    return tuple(names)


def _unpickled(file: Path) -> dict[str, Any]:
    """Return the content of a published pickle; nothing else is opened."""
    check_published(file)
    content: dict[str, Any] = pickle.loads(file.read_bytes(), encoding="latin1")  # noqa: S301 - the published file
    return content


def _read_batch(file: Path, layout: _Layout) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    content = _unpickled(file)
    return content["data"], np.array(content[layout.labels_key], dtype=np.int64)


def _read_binary(file: Path, layout: _Layout) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    size, record = file.stat().st_size, layout.label_bytes + _PIXELS
    if size > _MAX_FILE:
        raise DataError(f"{file}: {size:,} bytes; a CIFAR file has at most {_MAX_FILE:,}")
    if size == 0 or size % record:
        raise DataError(f"{file}: {size:,} bytes is no multiple of {record:,}, the size of an image with its label")
    records = np.fromfile(file, dtype=np.uint8).reshape(-1, record)
    return records[:, layout.label_bytes :], records[:, layout.label_bytes - 1].astype(np.int64)
