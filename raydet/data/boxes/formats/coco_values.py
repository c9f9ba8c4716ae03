"""What single values of a COCO file mean, and None for those that mean nothing: the file is foreign text."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from raydet.text import is_plain

_INT64 = range(-(2**63), 2**63)


def is_angle(value: Any) -> TypeGuard[float]:
    """Return whether a value turns a box: a number that is no multiple of 180 degrees."""
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(math.isfinite(value) and value % 180)


def file_of_url(url: Any) -> str | None:
    """Return the file that LVIS names by its address alone: its last folder and its name."""
    return "/".join(url.split("/")[-2:]) if isinstance(url, str) and url.count("/") >= 2 else None


def is_int64(value: Any) -> TypeGuard[int]:
    """Return whether a value is a whole number of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and value in _INT64


def id_as_text(value: Any) -> str | None:
    """Return the id as text; ids of both kinds occur, `7` and `"7"` are the same image."""
    if is_int64(value):
        return str(value)
    if isinstance(value, str) and value and is_plain(value):
        return value
    return None


def four_floats(value: Any) -> tuple[float, float, float, float] | None:
    """Return a list of exactly four numbers as floats; NaN and infinities pass, the box rules judge them."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    x, y, width, height = map(as_float, value)
    return None if x is None or y is None or width is None or height is None else (x, y, width, height)


def as_float(value: Any) -> float | None:
    """Return a number as a float, None for what is none or too large for one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def kind_of(value: Any) -> str:
    """Return what messages call a value's type."""
    names = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}
    return names.get(type(value), type(value).__name__)
