"""One line of a YOLO label file: what its columns mean follows from the data set, never from their number alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from raydet.data.layouts import is_number

Box = tuple[float, float, float, float]
Shape = Literal["box", "polygon", "oriented"]
_ROUNDING = 1e-2  # values so little beyond 0 and 1 come from rounding; the box rules judge the pixels
_SQUARE = 0.02  # of a side: how far corners may be off and still be those of a turned box


@dataclass(frozen=True, slots=True)
class Row:
    """A box, and what it was read from."""

    class_id: int
    box: Box  # xyxy, fractions of the image
    shape: Shape = "box"


def parse_row(line: str, num_classes: int, keypoint_values: int = 0) -> Row | str:
    """Return what a line says, or what is wrong with it.

    `keypoint_values`: how many numbers of key points stand behind the box, where `kpt_shape` says so. Without them, six
    or more numbers behind the class are the corners of a polygon.
    """
    if "," in line:
        return "commas: write decimal points, and spaces between numbers"
    try:
        class_number, *values = (float(part) for part in line.split())
    except ValueError:
        if len(line.split()) in (9, 10) and not is_number(line.split()[8]):
            return "a DOTA row: eight pixels, then the class; write the box around the corners"
        return "not only numbers"
    if not 0 <= class_number < num_classes or class_number != int(class_number):
        return f"class must be a whole number from 0 to {num_classes - 1}"
    if keypoint_values:
        if len(values) not in (4, 4 + keypoint_values):
            return f"{len(values) + 1} columns; kpt_shape calls for 5, or {5 + keypoint_values} with key points"
        values = values[:4]
    elif len(values) == 5:
        return "6 columns: this looks like a detection with a score, or a turned box with its angle, not a label"
    is_polygon = len(values) >= 6 and len(values) % 2 == 0
    if len(values) != 4 and not is_polygon:
        return f"{len(values) + 1} columns: key points need `kpt_shape` in the data.yaml"
    # NaN and infinity pass: the box rules name them.
    if any(math.isfinite(value) and not -_ROUNDING <= value <= 1 + _ROUNDING for value in values):
        return "values must lie between 0 and 1: are these pixels?"
    if is_polygon:
        xs, ys = values[0::2], values[1::2]
        shape: Shape = "oriented" if _is_turned_box(xs, ys) else "polygon"
        return Row(int(class_number), (min(xs), min(ys), max(xs), max(ys)), shape)
    x, y, width, height = values
    return Row(int(class_number), (x - width / 2, y - height / 2, x + width / 2, y + height / 2))


def could_be_key_points(line: str) -> bool:
    """Return whether a row that is read as a polygon would also do as a box with key points (x, y) inside it."""
    values = [float(part) for part in line.split()][1:]
    x, y, width, height = values[:4]
    points = zip(values[4::2], values[5::2], strict=True)
    return all(abs(px - x) <= width / 2 and abs(py - y) <= height / 2 for px, py in points)


def _is_turned_box(xs: list[float], ys: list[float]) -> bool:
    """Return whether four corners are those of a box that is not upright.

    In fractions of the image a turned rectangle is a parallelogram: its diagonals have the same middle.
    """
    if len(xs) != 4:
        return False
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    is_parallelogram = (
        abs(xs[0] + xs[2] - xs[1] - xs[3]) <= _SQUARE * width and abs(ys[0] + ys[2] - ys[1] - ys[3]) <= _SQUARE * height
    )

    def at_ends(values: list[float], extent: float) -> bool:
        low = min(values)
        return all(min(value - low, low + extent - value) <= _SQUARE * extent for value in values)

    return is_parallelogram and not (at_ends(xs, width) and at_ends(ys, height))
