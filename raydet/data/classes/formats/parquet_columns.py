"""The columns of Parquet files, within one budget of decoded bytes: a small file can stand for more than memory holds.

A value that occurs in many rows is stored once, so the size of a file says little about what it decodes to. All is
therefore decoded a few rows at a time and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydet.config.class_data import ImageSetConfig
from raydet.data.classes.formats.limits import check_count
from raydet.data.classes.formats.shown import quoted, shown
from raydet.data.classes.table import NO_LABEL
from raydet.errors import DataError

_MAX_BYTES = 1 << 35  # of all files, decoded: they are copied into the index
_MOST_ROWS = 16  # of images at once
_MOST_TEXTS = 64  # at once: four times as many as images, or a million labels would take seconds
_MOST_SMALL = 1_024  # numbers at once, or places in a dictionary, which Arrow copies every time
_MAX_TEXT = 4_096  # bytes of a label or an id
_LARGEST = 2**63 - 1  # number that is a label or an id
_MOST_ARRAYS = 1_024  # of a few rows each, before they become one


@dataclass(frozen=True, slots=True)
class Columns:
    """One file's columns: Arrow arrays, where there are such columns."""

    file: Path
    images: list[Any]  # large_binary, together one value a row; null where there is none
    labels: Any | None  # int64 or large_utf8
    ids: Any | None  # large_utf8
    metadata: dict[bytes, bytes]
    num_rows: int


class Budget:
    """Counts what was decoded, of all files together."""

    def __init__(
        self, what: str = "images and labels", advice: str = "write the images into one folder a class"
    ) -> None:
        self._what, self._advice = what, advice
        self._num_bytes = 0
        self._num_rows = 0

    def open(self, file: Path, num_rows: int) -> None:
        """Count a file. Raises DataError where it has too many rows."""
        self._num_rows += num_rows
        check_count(file, self._num_rows)

    def take(self, file: Path, num_bytes: int) -> None:
        """Count decoded bytes. Raises DataError where they are too many."""
        self._num_bytes += num_bytes
        if self._num_bytes > _MAX_BYTES:
            raise DataError(
                f"{file}: the {self._what} up to here are more than {_MAX_BYTES / 2**30:,.4g} GiB decoded, which "
                f"would all be copied; {self._advice}"
            )


def has_column(file: Path, name: str) -> bool:
    """Return whether a file is Parquet and has a column of that name; reads nothing but its end."""
    try:
        return file.is_file() and name in pq.read_schema(file).names
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return False


def read_columns(file: Path, config: ImageSetConfig, budget: Budget) -> Columns:
    """Read one file. Raises DataError where it is damaged, lacks a column, or holds more than the budget allows."""
    if file.exists() and not file.is_file():
        raise DataError(f"{file}: not a file")
    try:
        with pq.ParquetFile(file) as parquet:
            schema, footer = parquet.schema_arrow, parquet.metadata
            num_rows = sum(abs(footer.row_group(number).num_rows) for number in range(footer.num_row_groups))
            image, label, name = _paths(file, parquet, config)
            budget.open(file, num_rows)
            images = _merged(_images(file, parquet, image, budget))
            labels = _labels(file, parquet, label, budget) if label is not None else None
            ids = _ids(file, parquet, name, budget) if name is not None else None
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(file, (str(error).splitlines() or ["unreadable"])[0]) from None
    if {sum(map(len, images)), *(len(one) for one in (labels, ids) if one is not None)} != {num_rows}:
        raise _damaged(file, "columns of different lengths")
    return Columns(file, images, labels, ids, dict(schema.metadata or {}), num_rows)


def _damaged(file: Path, reason: str) -> DataError:
    return DataError(f"{file}: damaged, or not a Parquet file ({shown(reason)}); copy or download it again")


# --- which columns ----------------------------------------------------------------------------------------------------


def _paths(file: Path, parquet: Any, config: ImageSetConfig) -> tuple[str, str | None, str | None]:
    """Return the paths of images, labels and ids, which are all that is decoded."""
    schema = parquet.schema_arrow
    there = quoted(schema.names)
    if config.image_column not in schema.names:
        raise DataError(f"{file}: no column {config.image_column!r} (there are: {there}); set image_column")
    for key in ("label_column", "id_column"):  # their defaults may be missing, another name may not
        if not config.is_default(key) and getattr(config, key) not in schema.names:
            raise DataError(f"{file}: no column {getattr(config, key)!r} (there are: {there}); correct {key}")
    for name in (config.image_column, config.label_column, config.id_column):
        if schema.names.count(name) > 1:
            raise DataError(f"{file}: the column {name!r} is there twice; rename one of them")
    image = _image_path(file, schema, config.image_column)
    label, name = config.label_column, config.id_column
    has_labels = label in schema.names and not pa.types.is_null(schema.field(label).type)
    found = (
        image,
        _text_path(file, schema, label, "whole numbers from 0, or class names") if has_labels else None,
        _text_path(file, schema, name, "text or whole numbers") if name in schema.names else None,
    )
    paths = [parquet.schema.column(number).path for number in range(len(parquet.schema))]
    for path in found:  # Arrow reads whatever starts like a path: with `label`, also a column called `label.more`
        if path is not None and sum(one == path or one.startswith(f"{path}.") for one in paths) != 1:
            raise DataError(f"{file}: other columns start with {path!r} and a dot; rename or remove them")
    return found


def _image_path(file: Path, schema: Any, name: str) -> str:
    kind, path = schema.field(name).type, name
    if pa.types.is_struct(kind):
        fields = [field.name for field in kind]
        if fields.count("bytes") != 1:
            raise DataError(f"{file}: column {name!r} is a struct of {quoted(fields)}; expected `bytes` in it")
        kind, path = kind.field("bytes").type, f"{name}.bytes"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return path
    raise DataError(f"{file}: column {name!r} holds {shown(kind)}; expected encoded images (binary, or a struct)")


def _text_path(file: Path, schema: Any, name: str, expected: str) -> str:
    kind = schema.field(name).type
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_integer(values) or pa.types.is_string(values) or pa.types.is_large_string(values):
        return name
    raise DataError(f"{file}: column {name!r} holds {shown(kind)}; expected {expected}")


# --- what is in them --------------------------------------------------------------------------------------------------


def _images(file: Path, parquet: Any, path: str, budget: Budget) -> Iterator[Any]:
    """Yield the images of a few rows at a time."""
    for number in range(parquet.metadata.num_row_groups):
        for batch in parquet.iter_batches(batch_size=_MOST_ROWS, row_groups=[number], columns=[path]):
            column = batch.column(0)
            images = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
            images = images.cast(pa.large_binary())  # one array of binary ends at 2 GiB
            budget.take(file, images.nbytes)
            yield images


def _merged(arrays: Iterator[Any]) -> list[Any]:
    """Return fewer and larger arrays: millions of small ones would take more memory than what they hold."""
    merged: list[Any] = []
    while some := list(islice(arrays, _MOST_ARRAYS)):
        merged.append(pa.concat_arrays(some))
    return merged


def _labels(file: Path, parquet: Any, path: str, budget: Budget) -> Any:
    labels = _text_or_numbers(file, parquet, path, budget)
    return pc.fill_null(labels, NO_LABEL) if pa.types.is_int64(labels.type) else labels


def _ids(file: Path, parquet: Any, path: str, budget: Budget) -> Any:
    return pc.fill_null(_text_or_numbers(file, parquet, path, budget).cast(pa.large_utf8()), "")


def _text_or_numbers(file: Path, parquet: Any, path: str, budget: Budget) -> Any:
    """Return a column as int64 or large_utf8."""
    kind = parquet.schema_arrow.field(path).type
    chunks = _merged(_few_texts_or_numbers(file, parquet, path, budget))
    return pa.concat_arrays(chunks) if chunks else pa.array([], _wide(kind))


def _few_texts_or_numbers(file: Path, parquet: Any, path: str, budget: Budget) -> Iterator[Any]:
    """Yield the values of a few rows at a time."""
    kind, row = parquet.schema_arrow.field(path).type, 0
    size = _MOST_SMALL if pa.types.is_dictionary(kind) or pa.types.is_integer(kind) else _MOST_TEXTS
    for number in range(parquet.metadata.num_row_groups):
        for batch in parquet.iter_batches(batch_size=size, row_groups=[number], columns=[path]):
            column = batch.column(0)
            _check_lengths(file, column, path, row)
            values = _decoded(file, column, path, row)
            budget.take(file, values.nbytes)
            values.validate(full=True)  # text need not be valid UTF-8, whatever the schema says
            row += len(values)
            yield values


def _check_lengths(file: Path, column: Any, path: str, first: int) -> None:
    """Raise DataError where a text is too long, before it is copied. The column's values start at row `first`."""
    if pa.types.is_int64(_wide(column.type)):
        return
    is_dictionary = pa.types.is_dictionary(column.type)
    lengths = pc.binary_length(column.dictionary).take(column.indices) if is_dictionary else pc.binary_length(column)
    sizes = pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False)
    if len(sizes) and sizes.max() > _MAX_TEXT:
        row = int((sizes > _MAX_TEXT).argmax())
        raise DataError(
            f"{file}, row {first + row}: a text of {sizes[row]:,} bytes in column {path!r}, where labels and ids have "
            f"at most {_MAX_TEXT:,}; shorten it, or name the column that is meant"
        )


def _decoded(file: Path, column: Any, path: str, first: int) -> Any:
    """Return the values, from row `first` on, as int64 or large_utf8. Raises DataError where one is too large."""
    # of a dictionary its few rows first: a cast of the whole one would be one a batch
    values = column.dictionary.take(column.indices) if pa.types.is_dictionary(column.type) else column
    if pa.types.is_uint64(values.type):
        row = pc.index(pc.greater(values, pa.scalar(_LARGEST, pa.uint64())), True).as_py()
        if row >= 0:
            raise DataError(
                f"{file}, row {first + row}: {values[row].as_py():,} in column {path!r}, where labels and ids are at "
                f"most {_LARGEST:,}; correct it, or name the column that is meant"
            )
    return values.cast(_wide(column.type))


def _wide(kind: Any) -> Any:
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.int64() if pa.types.is_integer(values) else pa.large_utf8()
