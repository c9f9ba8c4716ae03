"""What a classifier's labels and predictions are at an evaluation, for the report to look at later.

    RUN/diagnostics/step_00030000.labels.arrow   what each unlabelled image is taken for, as far as it has a label
    RUN/diagnostics/step_00030000.sample.arrow   what the network says about some labelled and some unlabelled images

`row` is the row of the image index that the set was prepared into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydet.config.class_data import ImageViewsConfig
from raydet.data.classes.index import ImageIndex
from raydet.data.evenly import evenly
from raydet.families.classification.data import PreparedImages
from raydet.families.classification.evaluate import predict
from raydet.families.classification.label_table import NEVER, LabelTable
from raydet.labels.snapshots import Array, damaged, path_of, read_table, steps_with, write_table
from raydet.vision.classifier import Classifier

SAMPLED = 512  # images of either kind, evenly spaced: enough for a scatter, little beside an evaluation

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
_FLOATS = np.dtype(np.float32)


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


def write_snapshot(
    step: int,
    model: Classifier,
    table: LabelTable | None,
    data: PreparedImages,
    views: ImageViewsConfig,
    device: torch.device,
    folder: Path,
) -> None:
    """Write the learned labels of all images, where they are learned, and a sample of what the network says."""
    unlabeled = [] if data.unlabeled is None else evenly(len(data.unlabeled), SAMPLED)
    pseudo = None
    if table is not None:
        own = table.versions[: table.num_unlabeled] != NEVER
        if bool(own.any()):
            _write_learned(folder, step, table.logits[: table.num_unlabeled][own], own.nonzero()[:, 0])
        pseudo = table.read(torch.tensor(unlabeled))
    samples = [_sample(model, data.labeled, evenly(len(data.labeled), SAMPLED), None, views, device)]
    index = data.unlabeled if data.unlabeled is not None else data.labeled
    samples.append(_sample(model, index, unlabeled, pseudo, views, device))
    write_sample(folder, step, *samples)


def write_labels(folder: Path, step: int, rows: Array, classes: Array, scores: Array, entropies: Array) -> None:
    """Write the labels `[D]` of all unlabelled images that have one: class, its probability, entropy in nats."""
    columns = [
        pa.array(np.asarray(values), field.type)
        for values, field in zip((rows, classes, scores, entropies), LABELS, strict=True)
    ]
    write_table(path_of(folder, step, "labels"), pa.Table.from_arrays(columns, schema=LABELS))


def write_sample(folder: Path, step: int, labeled: Sample, unlabeled: Sample) -> None:
    """Write what the network says about some images of either set; see `Sample.of`."""
    tables = [_sample_table(name, part) for name, part in (("labeled", labeled), ("unlabeled", unlabeled))]
    write_table(path_of(folder, step, "sample"), pa.concat_tables(tables))


def read_labels(folder: Path) -> Iterator[Labels]:
    """Yield the labels of every snapshot, by step, one at a time. Raises LabelStoreError that names a damaged file."""
    for step in steps_with(folder, "labels"):
        path = path_of(folder, step, "labels")
        table = read_table(path, LABELS)
        columns = (table.column(name).combine_chunks().to_numpy() for name in LABELS.names)
        labels = Labels(step, *columns)
        has_sense = (labels.rows >= 0).all() and (labels.classes >= 0).all() and np.isfinite(labels.entropies).all()
        if not has_sense or not ((labels.scores >= 0) & (labels.scores <= 1.0001)).all():
            raise damaged(path, "a row, class, score or entropy is out of range")
        yield labels


def read_sample(folder: Path, step: int) -> dict[str, Sample]:
    """Return the sample of a step: `labeled` and `unlabeled`. Raises LabelStoreError that names a damaged file."""
    path = path_of(folder, step, "sample")
    table = read_table(path, SAMPLE)
    sets = np.array(table["set"].to_pylist(), dtype=np.str_)
    rows = table["row"].combine_chunks().to_numpy()
    try:
        logits = _matrix(table["logits"])
        classes = logits.shape[1]
        pseudo, features = _matrix(table["pseudo_logits"], width=classes), _matrix(table["feature"], width=2)
    except ValueError as error:
        raise damaged(path, str(error)) from None
    if not np.isin(sets, ("labeled", "unlabeled")).all() or (rows < 0).any():
        raise damaged(path, "a set or row is out of range")
    has_features = bool(np.isfinite(features).all()) and len(features) > 0
    found = {}
    for name in ("labeled", "unlabeled"):
        own = sets == name
        found[name] = Sample(rows[own], logits[own], pseudo[own], features[own] if has_features else None)
    return found


def _write_learned(folder: Path, step: int, logits: Tensor, rows: Tensor) -> None:
    log_p = logits.log_softmax(dim=-1)
    scores, classes = log_p.max(dim=-1)
    write_labels(folder, step, rows, classes, scores.exp(), -(log_p.exp() * log_p).sum(dim=-1))


def _sample(
    model: Classifier,
    index: ImageIndex,
    rows: Sequence[int],
    pseudo: Tensor | None,
    views: ImageViewsConfig,
    device: torch.device,
) -> Sample:
    said = predict(model, index, rows, views, device)
    features = said.features if said.features.shape[1] == 2 else None  # others cannot be drawn
    return Sample.of(np.array(rows, dtype=np.int64), said.logits, pseudo_logits=pseudo, features=features)


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
