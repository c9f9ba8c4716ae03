"""IDX, as MNIST and Fashion-MNIST are published: `train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, .gz or not."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raydet.config.class_data import ImageSetConfig
from raydet.data.classes.formats.class_names import numbered_by_value, read_class_names
from raydet.data.classes.formats.limits import check_count
from raydet.data.classes.formats.shown import check_file_name, shown
from raydet.data.classes.formats.subset import chosen
from raydet.data.classes.table import NO_LABEL, ImageTable, raw_table
from raydet.data.folder import listed
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.text import plural

_NAME = re.compile(r"(?:.*-)?(train|test|t10k)-(images|labels)[.-]idx[13]-ubyte(\.gz)?")
_UNSIGNED_BYTE = 0x08
_CHUNK = 1 << 22
_MAX_BYTES = 1 << 32  # of pixels, unpacked; EMNIST has 0.6 billion
_AGAIN = "copy or download it again"


def has_idx(folder: Path) -> bool:
    """Return whether a folder holds IDX images."""
    return any(kind == "images" for _, kind in _files(folder))


def read_idx(folder: Path, config: ImageSetConfig, log: ProblemLog) -> ImageTable:
    """Read the train or test images of a folder, gray; ids are `train/17`. Without a labels file there are no labels.

    Class names come from `class_names` or a classes.json in the folder, else the numbers that occur are the classes.
    Raises DataError where a file is damaged, cut off, or of another kind, or images and labels do not go together.
    """
    files = _files(folder)
    there = {subset: file for (subset, kind), file in files.items() if kind == "images"}
    if not there:
        raise DataError(f"{folder}: no IDX images there; looked for train-images-idx3-ubyte and the like, .gz or not")
    subset, images = chosen(folder, config.subset, there)
    pixels = _read(images, dimensions=3)
    labels, class_names = np.full(len(pixels), NO_LABEL, dtype=np.int64), tuple[str, ...]()
    if (file := files.get((subset, "labels"))) is not None:
        labels = _read(file, dimensions=1).astype(np.int64)
        if len(labels) != len(pixels):
            raise DataError(
                f"{file}: {plural(len(labels), 'label')}, but {images.name} has {plural(len(pixels), 'image')}"
            )
        labels, class_names = _named(labels, folder, config)
    ids = [f"{subset}/{row}" for row in range(len(pixels))]
    return raw_table(ids, pixels[:, None], labels, class_names, [(str(images), len(pixels))])


def _named(
    labels: NDArray[np.int64], folder: Path, config: ImageSetConfig
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if config.class_names is not None:
        return labels, read_class_names(Path(config.class_names).expanduser())
    beside = folder / "classes.json"
    return (labels, read_class_names(beside)) if beside.is_file() else numbered_by_value(labels)


def _files(folder: Path) -> dict[tuple[str, str], Path]:
    """Return the files by subset (train, test) and kind (images, labels). Raises DataError for two of a kind."""
    found: dict[tuple[str, str], Path] = {}
    for entry in listed(folder) if folder.is_dir() else []:
        file = Path(entry.path)
        if (match := _NAME.fullmatch(file.name)) and file.is_file():
            check_file_name(file.name, folder)
            key = ("train" if match[1] == "train" else "test", match[2])
            if key in found and found[key].name.removesuffix(".gz") != file.name.removesuffix(".gz"):
                raise DataError(f"{folder}: both {found[key].name} and {file.name}; give each set a folder of its own")
            found.setdefault(key, file)  # unpacked before packed
    return found


def _read(file: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array in an IDX file; memory grows with what there is, not with what is announced."""
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            shape = _shape(file, stream.read(4 + 4 * dimensions), dimensions)
            size = math.prod(shape)
            if size > _MAX_BYTES:
                raise DataError(f"{file}: {_shown(shape)} are announced, at most {_MAX_BYTES:,} are read; {_AGAIN}")
            check_count(file, shape[0])
            data = bytearray()
            while len(data) < size and (chunk := stream.read(min(_CHUNK, size - len(data)))):
                data += chunk
            left_over = stream.read(1)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{file}: damaged gzip ({shown(error)}); {_AGAIN}") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    if len(data) != size or left_over:
        found = "more" if left_over else "less, so it is cut off"
        raise DataError(f"{file}: {_shown(shape)} are announced, but there are {found}; {_AGAIN}")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _shown(shape: tuple[int, ...]) -> str:
    return f"{' x '.join(map(str, shape))} bytes"


def _shape(file: Path, head: bytes, dimensions: int) -> tuple[int, ...]:
    expected = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if head[:4] != expected:
        raise DataError(f"{file}: not an IDX file of this kind: starts with {head[:4].hex()!r}, not {expected.hex()!r}")
    if len(head) < 4 + 4 * dimensions:
        raise DataError(f"{file}: cut off in its header; {_AGAIN}")
    shape: tuple[int, ...] = struct.unpack(f">{dimensions}I", head[4:])
    if dimensions == 3 and not (0 < shape[1] <= 1 << 14 and 0 < shape[2] <= 1 << 14):
        raise DataError(f"{file}: images of {shape[2]} x {shape[1]} pixels; {_AGAIN}")
    return shape
