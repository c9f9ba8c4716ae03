"""Annotations that nothing is to be said about, which are nearly all, read column by column.

A look at every field of every annotation takes longer than all else that is done with a file of a million boxes. So
a batch is looked at as a whole first, by the same rules, and goes through `CocoColumns` entry by entry where one of it
is unusual.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet.data.boxes.formats.coco_values import is_int64

_UNUSUAL_KEYS = {"attributes", "rotation", "angle"}  # may say that a box is turned
_NUMBERS = {int, float}


@dataclass(frozen=True, slots=True, eq=False)
class PlainAnnotations:
    """B annotations without masks."""

    tags: NDArray[np.int64]  # [B] annotation ids
    image_ids: list[int]  # [B]
    categories: NDArray[np.int64]  # [B]
    boxes: NDArray[np.float64]  # [B, 4] xyxy, pixels
    crowd: NDArray[np.bool_]  # [B]
    areas: NDArray[np.float64]  # [B] square pixels, NaN where not given


def plain_annotations(entries: Sequence[Any]) -> PlainAnnotations | None:
    """Return the entries as columns, None where one of them is not as COCO writes it, or has a rotation."""
    if _types(entries) != {dict} or not _UNUSUAL_KEYS.isdisjoint(set().union(*entries)):
        return None
    tags = _whole_numbers(_column(entries, "id"))
    image_ids = _column(entries, "image_id")
    categories = _whole_numbers(_column(entries, "category_id"))
    boxes, areas = _boxes(_column(entries, "bbox")), _areas(_column(entries, "area"))
    crowd = _column(entries, "iscrowd")
    if tags is None or categories is None or boxes is None or areas is None or _whole_numbers(image_ids) is None:
        return None
    if tags.min() < 0 or not _types(crowd) <= {int, bool, type(None)} or not set(crowd) <= {0, 1, None}:
        return None
    return PlainAnnotations(tags, image_ids, categories, boxes, np.array(crowd, dtype=np.bool_), areas)


def _types(values: Sequence[Any]) -> set[type]:
    return set(map(type, values))


def _column(entries: Sequence[dict[str, Any]], key: str) -> list[Any]:
    return [entry.get(key) for entry in entries]


def _whole_numbers(values: list[Any]) -> NDArray[np.int64] | None:
    if _types(values) != {int} or not (is_int64(min(values)) and is_int64(max(values))):
        return None
    return np.array(values, dtype=np.int64)


def _boxes(values: list[Any]) -> NDArray[np.float64] | None:
    if _types(values) != {list} or set(map(len, values)) != {4}:
        return None
    found = _floats(list(chain.from_iterable(values)))
    if found is None:
        return None
    found = found.reshape(-1, 4)
    found[:, 2:] += found[:, :2]
    return found


def _areas(values: list[Any]) -> NDArray[np.float64] | None:
    if _types(values) == {type(None)}:
        return np.full(len(values), np.nan)
    found = _floats(values)
    return found if found is not None and ((found >= 0) & (found < math.inf)).all() else None


def _floats(values: list[Any]) -> NDArray[np.float64] | None:
    """Return them, NaN and infinities too: the box rules judge these."""
    if not _types(values) <= _NUMBERS:
        return None
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:  # a whole number too large for one
        return None
