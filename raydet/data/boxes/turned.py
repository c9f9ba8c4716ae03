"""Boxes that are turned, in formats that can say so: raydet has upright boxes, and takes the one around."""

from __future__ import annotations

import math

from raydet.data.problems import ProblemLog

Corners = tuple[float, float, float, float]


def box_around(left: float, top: float, right: float, bottom: float, degrees: float) -> Corners:
    """Return the upright box (xyxy) around a box that is turned by so many degrees about its centre.

    A box of width w and height h, turned by a, is |w cos a| + |h sin a| wide and |w sin a| + |h cos a| high.
    """
    angle = math.radians(degrees)
    cosine, sine = abs(math.cos(angle)), abs(math.sin(angle))
    x, y, w, h = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    half_width, half_height = (w * cosine + h * sine) / 2, (w * sine + h * cosine) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def report_turned(log: ProblemLog, file: object, count: int, what: str = "boxes are turned (rotation)") -> None:
    """Warn, once, that boxes are turned and which boxes are used instead."""
    if count:
        fix = "found boxes will be upright too; annotate upright boxes where that is too loose"
        log.warn("box-turned", file, "", f"{count:,} {what}; the upright boxes around them are used", fix)
