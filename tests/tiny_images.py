"""Tiny image classification sets on disk, valid unless a test breaks them.

Every picture is noise that depends on its label and number only, so two sets share none unless a test wants them to:
`first` is the number of the first picture.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from raydet.config.class_data import ImageDataConfig, ImageSetConfig
from raydet.data.classes.formats.detect import read_images
from raydet.data.classes.formats.published import known
from raydet.data.classes.rules import usable
from raydet.data.classes.table import ImageTable
from raydet.data.problems import ProblemLog

NAMES = ("cat", "dog", "owl")
LABELS = (0, 1, 2, 0, 1, 2)


def noise(label: int | None, number: int, height: int = 8, width: int = 8) -> NDArray[np.uint8]:
    """A picture `[H, W, 3]`."""
    rng = np.random.default_rng([number, 99 if label is None else abs(label)])
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: NDArray[np.uint8], format: str = "PNG") -> bytes:
    """The content of an image file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def set_config(path: Path | str, **other: Any) -> ImageSetConfig:
    """Settings of one set."""
    return ImageSetConfig.model_validate({"path": str(path), **other})


def data_config(labeled: Any, **other: Any) -> ImageDataConfig:
    """Settings of several sets; a path may be a Path."""
    sets = {"labeled": labeled, **other}
    return ImageDataConfig.model_validate({k: str(v) if isinstance(v, Path) else v for k, v in sets.items()})


def read_set(path: Path | str, *, needs_labels: bool = True, **other: Any) -> tuple[ImageTable, ProblemLog]:
    """Read and check a set as training does, without raising what was only reported."""
    log = ProblemLog()
    config = set_config(path, **other)
    return usable(read_images(config, log), config.path, log, needs_labels=needs_labels), log


# --- Parquet ----------------------------------------------------------------------------------------------------------


def write_parquet(
    file: Path,
    labels: Sequence[Any] | None = LABELS,
    *,
    names: Sequence[str] | None = NAMES,
    ids: Sequence[Any] | None = None,
    images: Sequence[bytes | None] | None = None,
    as_struct: bool = False,
    metadata: Mapping[str, str] | None = None,
    first: int = 0,
    count: int = 6,
) -> Path:
    """Write PNGs of 8 x 8 pixels with labels; names go into the schema's metadata, where `convert.py` puts them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = range(len(labels) if labels is not None else count)
    if images is None:
        kinds = [labels[row] if labels is not None and isinstance(labels[row], int) else None for row in rows]
        images = [encoded(noise(kinds[row], first + row)) for row in rows]
    columns: dict[str, Any] = {"image": pa.array(images, pa.binary())}
    if as_struct:
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        columns["image"] = pa.array([{"bytes": one, "path": "x.png"} for one in images], kind)
    if labels is not None:
        columns["label"] = pa.array(labels)
    if ids is not None:
        columns["image_id"] = pa.array(ids)
    table = pa.table(columns)
    about = {} if names is None else {"class_names": json.dumps(list(names))}
    pq.write_table(table.replace_schema_metadata({**about, **(metadata or {})}), file)
    return file


# --- folders ----------------------------------------------------------------------------------------------------------


def write_class_folders(root: Path, counts: Mapping[str, int], *, first: int = 0, suffix: str = ".png") -> Path:
    """Write `ROOT/CLASS/N.png`."""
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            (root / name / f"{number}{suffix}").write_bytes(encoded(noise(label, number)))
    return root


# --- IDX --------------------------------------------------------------------------------------------------------------


def write_idx(
    folder: Path, labels: Sequence[int] | None = LABELS, *, subset: str = "train", packed: bool = False, first: int = 0
) -> Path:
    """Write gray images of 8 x 8 pixels as MNIST is published; `subset`: train or t10k."""
    folder.mkdir(parents=True, exist_ok=True)
    given = LABELS if labels is None else labels
    pixels = np.stack([noise(label, first + row)[..., 0] for row, label in enumerate(given)])
    contents = {f"{subset}-images-idx3-ubyte": struct.pack(">4I", 0x803, *pixels.shape) + pixels.tobytes()}
    if labels is not None:
        contents[f"{subset}-labels-idx1-ubyte"] = struct.pack(">2I", 0x801, len(labels)) + bytes(labels)
    for name, content in contents.items():
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


# --- CIFAR ------------------------------------------------------------------------------------------------------------


def cifar_pixels(labels: Sequence[int], first: int = 0) -> NDArray[np.uint8]:
    """Pictures `[D, 3072]`: all red values of an image, then all green ones, then all blue ones."""
    pictures = [noise(label, first + row, 32, 32).transpose(2, 0, 1).reshape(-1) for row, label in enumerate(labels)]
    return np.stack(pictures) if pictures else np.zeros((0, 3072), dtype=np.uint8)


def publish(file: Path) -> Path:
    """Let a file made here count as the published one of its name."""
    known()[file.name].add(hashlib.md5(file.read_bytes()).hexdigest())
    return file


def python2_pickle(value: Any) -> bytes:
    """Pickle dicts, lists, text, numbers and uint8 arrays as Python 2 with NumPy 1 did: so CIFAR is published."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: Any) -> bytes:
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(key) + _python2(one) for key, one in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, str | bytes):
        content = value.encode() if isinstance(value, str) else value
        return b"T" + struct.pack("<i", len(content)) + content
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    assert isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 2
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + b"K\x00\x85" + _python2("b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + _python2("u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + _python2("|") + b"NNN" + _python2(-1) + _python2(-1) + b"K\x00tb"
    shape = b"".join(map(_python2, value.shape)) + b"\x86"
    return made + b"(K\x01" + shape + dtype + b"\x89" + _python2(value.tobytes()) + b"tb"


def write_cifar10(folder: Path, labels: Sequence[int] = LABELS, *, test: Sequence[int] = LABELS) -> Path:
    """Write five batches of `labels` each and a test batch."""
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, content: Mapping[str, Any]) -> None:
        (folder / name).write_bytes(python2_pickle({key.encode(): value for key, value in content.items()}))
        publish(folder / name)

    for number in range(1, 6):
        batch = {"batch_label": b"training batch", "labels": list(labels)}
        write(f"data_batch_{number}", {**batch, "data": cifar_pixels(labels, 100 * number)})
    write("test_batch", {"batch_label": b"testing batch", "labels": list(test), "data": cifar_pixels(test, 900)})
    write("batches.meta", {"num_cases_per_batch": len(labels), "label_names": [name.encode() for name in NAMES]})
    return folder


def write_cifar100(folder: Path, labels: Sequence[int] = LABELS) -> Path:
    """Write `train` and `test` with fine and coarse labels, and `meta`."""
    folder.mkdir(parents=True, exist_ok=True)
    for first, name in enumerate(("train", "test")):
        content = {
            "data": cifar_pixels(labels, 100 * first),
            "fine_labels": list(labels),
            "coarse_labels": [0] * len(labels),
            "filenames": [f"{row}.png" for row in range(len(labels))],
        }
        (folder / name).write_bytes(python2_pickle(content))
        publish(folder / name)
    meta = {"fine_label_names": list(NAMES), "coarse_label_names": ["animal"]}
    (folder / "meta").write_bytes(python2_pickle(meta))
    publish(folder / "meta")
    return folder


def write_cifar10_binary(folder: Path, labels: Sequence[int] = LABELS) -> Path:
    """Write the "binary version": a byte of label before each image."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for number, name in enumerate(names, start=1):
        records = np.concatenate([np.array(labels, np.uint8)[:, None], cifar_pixels(labels, 100 * number)], axis=1)
        records.tofile(folder / f"{name}.bin")
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    return folder
