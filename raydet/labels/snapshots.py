"""Snapshots of what a run has learned, for the report: Arrow files per evaluation, never read by training.

    RUN/diagnostics/step_00030000.labels.arrow   what each unlabelled image is taken for, as far as it has a label
    RUN/diagnostics/step_00030000.sample.arrow   what the network says about some labelled and some unlabelled images
    RUN/diagnostics/step_00030000.values.arrow   named lists of numbers, such as one per class

`row` is the row of the image index that the set was prepared into. Files are written aside and renamed, so that no
reader sees half of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from raydet.files import replacing
from raydet.labels.segment import LabelStoreError

LABELS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("class", pa.int32(), nullable=False),  # 0-based
        pa.field("score", pa.float32(), nullable=False),  # probability of that class
        pa.field("entropy", pa.float32(), nullable=False),  # of all probabilities, in nats
    ]
)
SAMPLE = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),  # labeled or unlabeled
        pa.field("row", pa.int64(), nullable=False),
        pa.field("logits", pa.list_(pa.float32()), nullable=False),  # of the network
        pa.field("pseudo_logits", pa.list_(pa.float32())),  # the learned label; null where there is none
        pa.field("feature", pa.list_(pa.float32())),  # null unless it has two numbers
    ]
)
VALUES = pa.schema(
    [pa.field("name", pa.string(), nullable=False), pa.field("values", pa.list_(pa.float32()), nullable=False)]
)

_NAME = re.compile(r"step_(\d{8})\.(labels|sample|values)\.arrow")
_FLOATS = np.dtype(np.float32)

Array = NDArray[Any] | Tensor  # tensors: on the CPU, without gradients


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """The labels of a snapshot."""

    step: int
    rows: NDArray[np.int64]  # [D] of the unlabelled index
    classes: NDArray[np.int32]  # [D]
    scores: NDArray[np.float32]  # [D] in [0, 1]
    entropies: NDArray[np.float32]  # [D] in nats


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Some images of one set of a snapshot."""

    rows: NDArray[np.int64]  # [n] of the labelled or of the unlabelled index
    logits: NDArray[np.float32]  # [n, N]
    pseudo_logits: NDArray[np.float32]  # [n, N]; a row of NaN where an image has no learned label
    features: NDArray[np.float32] | None = None  # [n, 2], where the network has such

    @staticmethod
    def of(rows: Array, logits: Array, *, pseudo_logits: Array | None = None, features: Array | None = None) -> Sample:
        """Return a sample from arrays or CPU tensors of the shapes above; None: no image has any."""
        values = np.asarray(logits, dtype=_FLOATS)
        pseudo = np.full_like(values, np.nan) if pseudo_logits is None else np.asarray(pseudo_logits, dtype=_FLOATS)
        seen = None if features is None else np.asarray(features, dtype=_FLOATS)
        return Sample(np.asarray(rows, dtype=np.int64), values, pseudo, seen)

    @property
    def has_label(self) -> NDArray[np.bool_]:
        """Return which images `[n]` have a learned label."""
        return np.asarray(np.isfinite(self.pseudo_logits).all(axis=1))


def write_labels(folder: Path, step: int, rows: Array, classes: Array, scores: Array, entropies: Array) -> None:
    """Write the labels `[D]` of all unlabelled images that have one: class, its probability, entropy in nats."""
    columns = [
        pa.array(np.asarray(values), field.type)
        for values, field in zip((rows, classes, scores, entropies), LABELS, strict=True)
    ]
    _write(_path(folder, step, "labels"), pa.Table.from_arrays(columns, schema=LABELS))


def write_sample(folder: Path, step: int, labeled: Sample, unlabeled: Sample) -> None:
    """Write what the network says about some images of either set; see `Sample.of`."""
    tables = [_sample_table(name, part) for name, part in (("labeled", labeled), ("unlabeled", unlabeled))]
    _write(_path(folder, step, "sample"), pa.concat_tables(tables))


def steps_with(folder: Path, kind: str) -> list[int]:
    """Return the steps of which there are `labels` or a `sample`, ascending; none where there is no folder."""
    names = [_NAME.fullmatch(path.name) for path in folder.glob("step_*.arrow")]
    return sorted(int(name[1]) for name in names if name is not None and name[2] == kind)


def read_labels(folder: Path) -> Iterator[Labels]:
    """Yield the labels of every snapshot, by step, one at a time. Raises LabelStoreError that names a damaged file."""
    for step in steps_with(folder, "labels"):
        path = _path(folder, step, "labels")
        table = _read(path, LABELS)
        columns = (table.column(name).combine_chunks().to_numpy() for name in LABELS.names)
        labels = Labels(step, *columns)
        has_sense = (labels.rows >= 0).all() and (labels.classes >= 0).all() and np.isfinite(labels.entropies).all()
        if not has_sense or not ((labels.scores >= 0) & (labels.scores <= 1.0001)).all():
            raise _damaged(path, "a row, class, score or entropy is out of range")
        yield labels


def read_sample(folder: Path, step: int) -> dict[str, Sample]:
    """Return the sample of a step: `labeled` and `unlabeled`. Raises LabelStoreError that names a damaged file."""
    path = _path(folder, step, "sample")
    table = _read(path, SAMPLE)
    sets = np.array(table["set"].to_pylist(), dtype=np.str_)
    rows = table["row"].combine_chunks().to_numpy()
    try:
        logits = _matrix(table["logits"])
        classes = logits.shape[1]
        pseudo, features = _matrix(table["pseudo_logits"], width=classes), _matrix(table["feature"], width=2)
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    if not np.isin(sets, ("labeled", "unlabeled")).all() or (rows < 0).any():
        raise _damaged(path, "a set or row is out of range")
    has_features = bool(np.isfinite(features).all()) and len(features) > 0
    found = {}
    for name in ("labeled", "unlabeled"):
        own = sets == name
        found[name] = Sample(rows[own], logits[own], pseudo[own], features[own] if has_features else None)
    return found


def write_values(folder: Path, step: int, values: Mapping[str, Array]) -> None:
    """Write named lists of numbers; of a table its rows, one after the other."""
    flat = [np.asarray(each, dtype=_FLOATS).ravel() for each in values.values()]
    columns = [pa.array(list(values), pa.string()), pa.array(flat, VALUES.field("values").type)]
    _write(_path(folder, step, "values"), pa.Table.from_arrays(columns, schema=VALUES))


def read_values(folder: Path, step: int) -> dict[str, NDArray[np.float32]]:
    """Return the named lists of a step. Raises LabelStoreError that names a damaged file."""
    table = _read(_path(folder, step, "values"), VALUES)
    lists = (each.values.to_numpy() for each in table["values"])
    return dict(zip(table["name"].to_pylist(), lists, strict=True))


def remove_after(folder: Path, step: int) -> None:
    """Delete the snapshots of steps beyond `step`, which a resumed run takes anew, perhaps at other steps."""
    for path in folder.glob("step_*.arrow"):  # of whatever kind
        number = path.name.removeprefix("step_").split(".")[0]
        if number.isdecimal() and int(number) > step:
            path.unlink(missing_ok=True)


def _path(folder: Path, step: int, kind: str) -> Path:
    return folder / f"step_{step:08d}.{kind}.arrow"


def _sample_table(name: str, sample: Sample) -> pa.Table:
    number = len(sample.rows)
    missing = np.full((number, 2), np.nan, dtype=_FLOATS)
    columns = [
        pa.array([name] * number, pa.string()),
        pa.array(sample.rows, pa.int64()),
        _lists(sample.logits),
        _lists(sample.pseudo_logits, known=sample.has_label),
        _lists(
            missing if sample.features is None else sample.features, known=np.full(number, sample.features is not None)
        ),
    ]
    return pa.Table.from_arrays(columns, schema=SAMPLE)


def _lists(values: NDArray[np.float32], known: NDArray[np.bool_] | None = None) -> pa.Array:
    """Return a list column of the rows of `[n, N]`, null where a row is not `known`."""
    is_known = np.ones(len(values), dtype=np.bool_) if known is None else known
    ends = np.concatenate([[0], np.cumsum(is_known * values.shape[1])]).astype(np.int32)
    mask = None if is_known.all() else pa.array(~is_known)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values[is_known].ravel()), mask=mask)


def _matrix(column: pa.ChunkedArray, width: int | None = None) -> NDArray[np.float32]:
    """Return a list column as `[n, N]`, rows of NaN for null. Raises ValueError where lists differ in length."""
    lists = column.combine_chunks()
    known = lists.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.unique(lists.drop_null().value_lengths().to_numpy())
    if width is None:
        width = int(lengths[0]) if len(lengths) else 0
    if any(length != width for length in lengths):
        raise ValueError(f"lists of {', '.join(map(str, lengths))} numbers where {width} belong")
    values = np.full((len(lists), width), np.nan, dtype=_FLOATS)
    values[known] = lists.drop_null().flatten().to_numpy().reshape(int(known.sum()), width)
    return values


def _write(path: Path, table: pa.Table) -> None:
    with replacing(path) as file, pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table)


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    """Map a file into memory and check it."""
    try:
        with pa.memory_map(str(path)) as source:  # the mapping outlives the file object
            table = pa.ipc.open_file(source).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(path, (str(error).splitlines() or ["unreadable"])[0]) from None
    if table.schema != schema or any(table[f.name].null_count for f in schema if not f.nullable):
        raise _damaged(path, "not a snapshot of this raydet")
    return table


def _damaged(path: Path, why: str) -> LabelStoreError:
    return LabelStoreError(f"{path}: damaged: {why}. Delete it; the report goes on without this step")
