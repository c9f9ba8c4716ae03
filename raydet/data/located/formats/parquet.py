"""Parquet: one row an image, as for classification, and a column of boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydet.config.class_data import ImageSetConfig
from raydet.config.located_data import LocatedSetConfig
from raydet.data.classes.formats.parquet import read_parquet
from raydet.data.classes.formats.parquet_columns import Budget
from raydet.data.classes.formats.parquet_files import parquet_files
from raydet.data.classes.formats.shown import quoted, shown
from raydet.data.located.table import Floats, LocatedTable, located
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.text import plural

_MOST_BOXES = 1_000  # of one image
_MOST_ROWS = 16  # decoded at once: the same number over and over takes no room in the file


def read_located_parquet(one: LocatedSetConfig, log: ProblemLog) -> LocatedTable:
    """Read files with the same columns. Raises DataError where one is damaged, or its boxes are not numbers."""
    files = parquet_files(str(Path(one.path).expanduser()), one.subset)
    images = read_parquet(files, as_images(one, "parquet"), log)
    if not one.read_boxes:
        return located(images)
    budget = Budget("boxes", "use a part of the files")
    columns = [_boxes_of(file, one, budget) for file in files]
    of_file = {name: boxes for name, boxes in zip(images.origins, columns, strict=True)}
    rows = zip(images.origin.tolist(), images.place.tolist(), strict=True)
    boxes = [of_file[images.origins[file]][place] for file, place in rows]
    return LocatedTable(images, np.cumsum([0, *map(len, boxes)]), np.concatenate([np.empty((0, 4)), *boxes]))


def as_images(one: LocatedSetConfig, format: str) -> ImageSetConfig:
    """Return the part of a set's settings that is about images and classes."""
    shared = (one.model_fields_set & ImageSetConfig.model_fields.keys()) - {"format"}
    return ImageSetConfig.model_validate({**{key: getattr(one, key) for key in shared}, "format": format})


def _boxes_of(file: Path, one: LocatedSetConfig, budget: Budget) -> list[Floats]:
    """Return the boxes `[n, 4]` of each row, xyxy."""
    found: list[Floats] = []
    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            if one.box_column not in names:
                if not one.is_default("box_column"):
                    there = quoted(names)
                    raise DataError(f"{file}: no column {one.box_column!r} (there are: {there}); correct box_column")
                return [np.empty((0, 4))] * parquet.metadata.num_rows
            _check_type(file, one.box_column, parquet.schema_arrow.field(one.box_column).type)
            _check_amount(file, one.box_column, parquet.metadata)
            for batch in parquet.iter_batches(batch_size=_MOST_ROWS, columns=[one.box_column]):
                for value in batch.column(one.box_column):
                    found.append(_boxes(file, len(found), value, one))
                    budget.take(file, found[-1].nbytes)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: {one.box_column}: cannot be read ({shown(error)}); copy or download it again"
        ) from None
    return found


def _check_type(file: Path, name: str, kind: Any) -> None:
    inner = kind
    while pa.types.is_list(inner) or pa.types.is_large_list(inner) or pa.types.is_fixed_size_list(inner):
        inner = inner.value_type
    if inner is kind or not (pa.types.is_floating(inner) or pa.types.is_integer(inner)):
        raise DataError(f"{file}: column {name!r} holds {shown(kind)}; expected lists of numbers, four for each box")


def _check_amount(file: Path, name: str, footer: Any) -> None:
    """Raise DataError where a row must have too many numbers, before one is decoded: a single row can fill memory."""
    for group in map(footer.row_group, range(footer.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema.startswith(f"{name}.") and column.num_values > 4 * _MOST_BOXES * group.num_rows:
                raise DataError(
                    f"{file}: {plural(column.num_values, 'number')} in {name!r} for {plural(group.num_rows, 'row')}; "
                    f"expected four for each box, of at most {_MOST_BOXES:,} a row"
                )


def _boxes(file: Path, row: int, value: Any, one: LocatedSetConfig) -> Floats:
    """Return a row's boxes, which are four numbers, several times four, or lists of four; `value` is Arrow's."""
    count = _count(value)  # before they become numbers of Python's
    numbers = np.array(_flat(value.as_py() or []) if count <= 4 * _MOST_BOXES else [], dtype=np.float64)
    if count > 4 * _MOST_BOXES or len(numbers) % 4:
        raise DataError(
            f"{file}, row {row}: {plural(max(count, len(numbers)), 'number')} in {one.box_column!r}; expected four for "
            f"each box, of at most {_MOST_BOXES:,}"
        )
    boxes = numbers.reshape(-1, 4)
    if one.box_format == "xywh":
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return boxes


def _count(value: Any) -> int:
    """Return how much is in a row: its numbers, or its lists where those are more."""
    inner, most = value.values, 0
    while inner is not None:
        most = max(most, len(inner))
        inner = inner.flatten() if pa.types.is_nested(inner.type) else None
    return most


def _flat(value: list[Any]) -> list[float]:
    found: list[float] = []
    for each in value:
        found += _flat(each) if isinstance(each, list) else [np.nan if each is None else each]
    return found
