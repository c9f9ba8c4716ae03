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
from raydet.data.classes.formats.parquet_files import parquet_files
from raydet.data.classes.formats.shown import quoted, shown
from raydet.data.located.table import LocatedTable, located
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.text import plural

_MOST_BOXES = 1_000  # of one image


def read_located_parquet(one: LocatedSetConfig, log: ProblemLog) -> LocatedTable:
    """Read files with the same columns. Raises DataError where one is damaged, or its boxes are not numbers."""
    files = parquet_files(str(Path(one.path).expanduser()), one.subset)
    images = read_parquet(files, as_images(one, "parquet"), log)
    if not one.read_boxes:
        return located(images)
    columns = [_boxes_of(file, one) for file in files]
    of_file = {name: boxes for name, boxes in zip(images.origins, columns, strict=True)}
    rows = zip(images.origin.tolist(), images.place.tolist(), strict=True)
    return located(images, [of_file[images.origins[file]][place] for file, place in rows])


def as_images(one: LocatedSetConfig, format: str) -> ImageSetConfig:
    """Return the part of a set's settings that is about images and classes."""
    shared = (one.model_fields_set & ImageSetConfig.model_fields.keys()) - {"format"}
    return ImageSetConfig.model_validate({**{key: getattr(one, key) for key in shared}, "format": format})


def _boxes_of(file: Path, one: LocatedSetConfig) -> list[list[Any]]:
    """Return the boxes of each row, xyxy."""
    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            if one.box_column not in names:
                if "box_column" in one.model_fields_set:
                    there = quoted(names)
                    raise DataError(f"{file}: no column {one.box_column!r} (there are: {there}); correct box_column")
                return [[] for _ in range(parquet.metadata.num_rows)]
            _check_type(file, one.box_column, parquet.schema_arrow.field(one.box_column).type)
            values = parquet.read(columns=[one.box_column]).column(one.box_column).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: {one.box_column}: cannot be read ({shown(error)}); copy or download it again"
        ) from None
    return [_boxes(file, row, value, one) for row, value in enumerate(values)]


def _check_type(file: Path, name: str, kind: Any) -> None:
    inner = kind
    while pa.types.is_list(inner) or pa.types.is_large_list(inner) or pa.types.is_fixed_size_list(inner):
        inner = inner.value_type
    if inner is kind or not (pa.types.is_floating(inner) or pa.types.is_integer(inner)):
        raise DataError(f"{file}: column {name!r} holds {shown(kind)}; expected lists of numbers, four for each box")


def _boxes(file: Path, row: int, value: Any, one: LocatedSetConfig) -> list[Any]:
    """Return a row's boxes, which are four numbers, several times four, or lists of four."""
    numbers = np.array(_flat(value or []), dtype=np.float64)
    if len(numbers) % 4 or len(numbers) > 4 * _MOST_BOXES:
        raise DataError(
            f"{file}, row {row}: {plural(len(numbers), 'number')} in {one.box_column!r}; expected four for each box, "
            f"of at most {_MOST_BOXES:,}"
        )
    boxes = numbers.reshape(-1, 4)
    if one.box_format == "xywh":
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return list(boxes.tolist())


def _flat(value: list[Any]) -> list[float]:
    found: list[float] = []
    for each in value:
        found += _flat(each) if isinstance(each, list) else [np.nan if each is None else each]
    return found
