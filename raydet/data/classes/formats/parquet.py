"""Parquet: one row an image, with a column of encoded images, of labels, of ids; one file or several alike.

Class names come from `class_names`, the file's own metadata (a JSON list under `class_names`, or what the `datasets`
library writes), or a classes.json beside it. Without any, whole numbers are called by themselves, and text is sorted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raydet.config.class_data import ImageSetConfig
from raydet.data.classes.formats.class_names import (
    checked_class_names,
    numbered_by_name,
    numbered_by_value,
    parse_class_names,
    read_class_names,
)
from raydet.data.classes.formats.parquet_columns import Budget, Columns, read_columns
from raydet.data.classes.table import NO_LABEL, ImageTable, encoded_table
from raydet.data.problems import ProblemLog
from raydet.errors import DataError


def read_parquet(files: Sequence[Path], config: ImageSetConfig, log: ProblemLog) -> ImageTable:
    """Read files with the same columns, one after the other. Rows without an image are reported and left out.

    Raises DataError where a file is damaged, lacks the image column, or names other classes than the first one.
    """
    budget = Budget()
    pieces = [read_columns(file, config, budget) for file in files]
    class_names = _class_names(pieces, config)
    source = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    kinds = {str(piece.labels.type) for piece in pieces if piece.labels is not None}
    if len({piece.labels is None for piece in pieces}) > 1 or len({"string" in kind for kind in kinds}) > 1:
        raise DataError(f"{source}: the column {config.label_column!r} is not alike in all files")
    content = _one([array for piece in pieces for array in piece.images])
    ids = _ids(pieces)
    labels, names = _labels(pieces, class_names, source, log)
    table = encoded_table(ids, content, labels, names, [(str(piece.file), piece.num_rows) for piece in pieces])
    return _without_empty(table, config, log)


def _one(arrays: list[Any]) -> Any:
    if len(arrays) == 1:  # which would be copied too
        return arrays[0]
    return pa.concat_arrays(arrays) if arrays else pa.array([], pa.large_binary())


def _ids(pieces: list[Columns]) -> Any:
    """Return the ids `[D]`: the column where every file has it, else the rows numbered through from 0."""
    columns = [piece.ids for piece in pieces]
    if all(column is not None for column in columns):
        return pa.concat_arrays(columns)
    return pa.array(np.arange(sum(piece.num_rows for piece in pieces)), pa.int64()).cast(pa.large_utf8())


def _labels(
    pieces: list[Columns], class_names: tuple[str, ...] | None, source: str, log: ProblemLog
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    columns = [piece.labels for piece in pieces if piece.labels is not None]
    if not columns:
        return np.full(sum(piece.num_rows for piece in pieces), NO_LABEL, dtype=np.int64), class_names or ()
    column = pa.concat_arrays(columns)
    if pa.types.is_large_string(column.type):
        return numbered_by_name(column.to_pylist(), class_names, source, log)
    values: NDArray[np.int64] = column.to_numpy(zero_copy_only=False)
    return (values, class_names) if class_names is not None else numbered_by_value(values)


def _class_names(pieces: list[Columns], config: ImageSetConfig) -> tuple[str, ...] | None:
    if config.class_names is not None:
        return read_class_names(Path(config.class_names).expanduser())
    first, found = pieces[0], None
    for piece in pieces:
        names = _names_in_metadata(piece, config.label_column)
        if piece is not first and names != found:
            raise DataError(f"{piece.file}: other class names than {first.file}; read them as sets of their own")
        found = names
    beside = first.file.parent / "classes.json"
    return read_class_names(beside) if found is None and beside.is_file() else found


def _names_in_metadata(piece: Columns, label_column: str) -> tuple[str, ...] | None:
    if (text := piece.metadata.get(b"class_names")) is not None:
        return parse_class_names(text, f"{piece.file}, metadata class_names")
    try:
        features = json.loads(piece.metadata[b"huggingface"])["info"]["features"]
        names = features[label_column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return checked_class_names(names, f"{piece.file}, metadata huggingface")


def _without_empty(table: ImageTable, config: ImageSetConfig, log: ProblemLog) -> ImageTable:
    sizes = pc.fill_null(pc.binary_length(table.content), 0).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(sizes == 0):
        message = f"no image in column {config.image_column!r} (null or 0 bytes)"
        fix = "store the image itself, not the path to it, or remove the row"
        log.error("image-missing", table.name_at(int(row)), "", message, fix)
    return table if sizes.all() else table.take(np.flatnonzero(sizes))
