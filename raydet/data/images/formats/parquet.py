"""Parquet: one row an image, with a column of encoded images, of labels, of ids; one file or several alike.

Class names come from `class_names`, the file's own metadata (a JSON list under `class_names`, or what the `datasets`
library writes), or a classes.json beside it. Without any, whole numbers are called by themselves, and text is sorted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raydet.config.images import ImageSetConfig
from raydet.data.images.formats.class_names import (
    checked_class_names,
    numbered_by_name,
    numbered_by_value,
    parse_class_names,
    read_class_names,
)
from raydet.data.images.table import NO_LABEL, ImageTable, encoded_table
from raydet.data.problems import ProblemLog
from raydet.errors import DataError

_MAX_BYTES = 1 << 35  # of images, unpacked: they are copied into the index


def read_parquet(files: Sequence[Path], config: ImageSetConfig, log: ProblemLog) -> ImageTable:
    """Read files with the same columns, one after the other. Rows without an image are reported and left out.

    Raises DataError where a file is damaged, lacks the image column, or names other classes than the first one.
    """
    pieces = [_read_file(file, config) for file in files]
    class_names = _class_names(pieces, config)
    source = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    kinds = {str(piece.labels.type) for piece in pieces if piece.labels is not None}
    if len({piece.labels is None for piece in pieces}) > 1 or len({"string" in kind for kind in kinds}) > 1:
        raise DataError(f"{source}: the column {config.label_column!r} is not alike in all files")
    content = pa.concat_arrays([piece.content for piece in pieces])
    ids = _ids(pieces)
    labels, names = _labels(pieces, class_names, source, log)
    table = encoded_table(ids, content, labels, names, [(str(piece.file), len(piece.content)) for piece in pieces])
    return _without_empty(table, config, log)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One file's columns: Arrow arrays, where there are such columns."""

    file: Path
    content: Any  # large_binary; null where there is none
    labels: Any | None  # int64 or large_utf8
    ids: Any | None  # large_utf8
    metadata: dict[bytes, bytes]


def _read_file(file: Path, config: ImageSetConfig) -> _Piece:
    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            wanted = [c for c in (config.image_column, config.label_column, config.id_column) if c in schema.names]
            _check_columns(file, schema, config)
            _check_size(file, parquet.metadata)
            table = parquet.read(columns=wanted)
        image = _whole(_encoded(file, config.image_column, table[config.image_column]))
        labels = _label_column(file, config.label_column, table)
        ids = _id_column(file, config.id_column, table)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise DataError(f"{file}: damaged, or not a Parquet file ({reason}); copy or download it again") from None
    return _Piece(file, image, labels, ids, dict(schema.metadata or {}))


def _check_columns(file: Path, schema: Any, config: ImageSetConfig) -> None:
    there = ", ".join(schema.names[:20])
    for name in (config.image_column, config.label_column, config.id_column):
        if schema.names.count(name) > 1:
            raise DataError(f"{file}: the column {name!r} is there twice; rename one of them")
    if config.image_column not in schema.names:
        raise DataError(f"{file}: no column {config.image_column!r} (there are: {there}); set image_column")
    for key in ("label_column", "id_column"):  # their defaults may be missing, a name that somebody wrote may not
        if key in config.model_fields_set and getattr(config, key) not in schema.names:
            raise DataError(f"{file}: no column {getattr(config, key)!r} (there are: {there}); correct {key}")


def _check_size(file: Path, metadata: Any) -> None:
    size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if size > _MAX_BYTES:
        raise DataError(
            f"{file}: {size / 2**30:,.0f} GiB unpacked, which would all be copied (at most {_MAX_BYTES >> 30} GiB); "
            "write the images into one folder a class"
        )


def _whole(column: Any) -> Any:
    """Return a chunked column as one array."""
    column = column.combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def _encoded(file: Path, name: str, column: Any) -> Any:
    if pa.types.is_struct(column.type):
        fields = [field.name for field in column.type]
        if "bytes" not in fields:
            raise DataError(f"{file}: column {name!r} is a struct of {', '.join(fields)}; expected `bytes` in it")
        column = pc.struct_field(column, "bytes")
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):  # one array of binary ends at 2 GiB
        return column.cast(pa.large_binary())
    raise DataError(f"{file}: column {name!r} holds {column.type}; expected encoded images (binary, or a struct)")


def _label_column(file: Path, name: str, table: Any) -> Any | None:
    if name not in table.column_names or pa.types.is_null(table[name].type):
        return None
    column = _whole(table[name])
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_integer(column.type):
        return pc.fill_null(column.cast(pa.int64()), NO_LABEL)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.large_utf8())
    raise DataError(f"{file}: column {name!r} holds {column.type}; expected whole numbers from 0, or class names")


def _id_column(file: Path, name: str, table: Any) -> Any | None:
    if name not in table.column_names:
        return None
    column = _whole(table[name])
    kinds = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
    if not any(is_kind(column.type) for is_kind in kinds):
        raise DataError(f"{file}: column {name!r} holds {column.type}; expected text or whole numbers")
    return pc.fill_null(column.cast(pa.large_utf8()), "")


def _ids(pieces: list[_Piece]) -> Any:
    """Return the ids `[D]`: the column where every file has it, else the rows numbered through from 0."""
    columns = [piece.ids for piece in pieces]
    if all(column is not None for column in columns):
        return pa.concat_arrays(columns)
    return pa.array(range(sum(len(piece.content) for piece in pieces)), pa.int64()).cast(pa.large_utf8())


def _labels(
    pieces: list[_Piece], class_names: tuple[str, ...] | None, source: str, log: ProblemLog
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    columns = [piece.labels for piece in pieces if piece.labels is not None]
    if not columns:
        return np.full(sum(len(piece.content) for piece in pieces), NO_LABEL, dtype=np.int64), class_names or ()
    column = pa.concat_arrays(columns)
    if pa.types.is_large_string(column.type):
        return numbered_by_name(column.to_pylist(), class_names, source, log)
    values: NDArray[np.int64] = column.to_numpy(zero_copy_only=False)
    return (values, class_names) if class_names is not None else numbered_by_value(values)


def _class_names(pieces: list[_Piece], config: ImageSetConfig) -> tuple[str, ...] | None:
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


def _names_in_metadata(piece: _Piece, label_column: str) -> tuple[str, ...] | None:
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
