"""Boxes that are turned, in formats that can say so: raydet has upright boxes, and takes the one around."""

from __future__ import annotations

import math

from raydet.data.problems import ProblemLog
from raydet.text import plural

Corners = tuple[float, float, float, float]
TURNED = ("box is turned (rotation)", "boxes are turned (rotation)")  # of one, of several
TURNED_ROWS = ("row is a turned box (four corners)", "rows are turned boxes (four corners)")


def box_around(left: float, top: float, right: float, bottom: float, degrees: float) -> Corners:
    """Return the upright box (xyxy) around a box that is turned by so many degrees about its centre.

    A box of width w and height h, turned by a, is |w cos a| + |h sin a| wide and |w sin a| + |h cos a| high.
    """
    angle = math.radians(degrees)
    cosine, sine = abs(math.cos(angle)), abs(math.sin(angle))
    x, y, w, h = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    half_width, half_height = (w * cosine + h * sine) / 2, (w * sine + h * cosine) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def report_turned(log: ProblemLog, file: object, count: int, what: tuple[str, str] = TURNED) -> None:
    """Warn, once, that boxes are turned and which boxes are used instead."""
    if count:
        fix = "found boxes will be upright too; annotate upright boxes where that is too loose"
        log.warn("box-turned", file, "", f"{plural(count, *what)}: the upright boxes around turned ones are used", fix)
