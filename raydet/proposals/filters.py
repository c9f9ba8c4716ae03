"""Which boxes of an image are kept: those of a moderate shape and size (ADePT, Section 4.1). Pure functions.

Boxes are float64 `[P, 4]`, x1 y1 x2 y2 with the right and lower edge excluded, in pixels of the original image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from raydet.data.proposals import Fallback
from raydet.errors import ConfigError

Boxes = NDArray[np.float64]
Counts = NDArray[np.int64]

TOLERANCE = 1e-9  # relative: bounds are inclusive, and what equals one may be rounded to either side of it
FALLBACK_SIDE = 32.0  # pixels: what SoCo asks of a box where nothing passes all filters


class Drop(IntEnum):
    """Why a box is dropped: the first of these that is true of it."""

    EMPTY = 0  # without an area inside the image
    TWICE = 1  # equal to another one
    SHAPE = 2
    AREA = 3
    SIDE = 4


@dataclass(frozen=True, slots=True)
class Filters:
    """Bounds, all of them inclusive."""

    aspect_range: tuple[float, float] = (1 / 3, 3.0)  # of width / height
    sqrt_area_range: tuple[float, float] = (0.3, 0.8)  # of sqrt(w h) / sqrt(W H)
    min_side: float = 0.0  # pixels of the original image; SoCo: 32

    def check(self) -> None:
        """Raise ConfigError for bounds that nothing can pass, or that are no numbers."""
        for name, (low, high), most in (
            ("--aspect-range", self.aspect_range, math.inf),
            ("--sqrt-area-range", self.sqrt_area_range, 1.0),
        ):
            if not 0 <= low <= high <= most:
                limit = "" if most == math.inf else f" <= {most:g}"
                raise ConfigError(f"{name} {low:g} {high:g}: expected 0 <= LOW <= HIGH{limit}")
        if not 0 <= self.min_side < math.inf:
            raise ConfigError(f"--min-side {self.min_side:g}: expected 0 pixels or more")

    def kept(self, boxes: Boxes, width: int, height: int) -> tuple[Boxes, Fallback, Counts]:
        """Return the boxes of an image to keep: at least one, each once, sorted; which filters those have passed; and
        how many are dropped for each reason of `Drop`.

        Boxes are clipped to the image first; those without an area are none. The order (x1, then y1, x2, y2) does not
        depend on that of the source. A box's id is its place counted from 1.
        """
        boxes = np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), 0.0, (width, height, width, height))
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        num_given, num_real = len(boxes), int(has_area.sum())
        boxes = np.unique(boxes[has_area], axis=0)
        sides = boxes[:, 2:] - boxes[:, :2]
        ratio = sides[:, 0] / sides[:, 1]
        # Squared, as two square roots would round 30 x 75 of 100 x 250 to less than 0.3.
        share = sides.prod(axis=1) / (width * height)
        passes = {
            Drop.SHAPE: _within(ratio, *self.aspect_range),
            Drop.AREA: _within(share, self.sqrt_area_range[0] ** 2, self.sqrt_area_range[1] ** 2),
            Drop.SIDE: sides.min(axis=1) >= self.min_side,
        }
        mask, fallback = _chosen(passes, sides)
        dropped = np.zeros(len(Drop), np.int64)
        dropped[[Drop.EMPTY, Drop.TWICE]] = num_given - num_real, num_real - len(boxes)
        rest = ~mask
        for reason, passed in passes.items():
            dropped[reason] = (rest & ~passed).sum()
            rest &= passed
        kept = np.array([[0.0, 0.0, width, height]]) if fallback == Fallback.IMAGE else boxes[mask]
        return kept, fallback, dropped


def _chosen(passes: Mapping[Drop, NDArray[np.bool_]], sides: Boxes) -> tuple[NDArray[np.bool_], Fallback]:
    """Say which boxes are kept, and by which filters: all of them, or the first of the fallbacks that leaves one."""
    large = (sides >= FALLBACK_SIDE).all(axis=1)
    ways = {
        Fallback.NONE: np.logical_and.reduce(list(passes.values())),
        Fallback.ASPECT: passes[Drop.SHAPE] & large,
        Fallback.SIDE: large,
    }
    for fallback, mask in ways.items():
        if mask.any():
            return mask, fallback
    return np.zeros(len(sides), np.bool_), Fallback.IMAGE


def _within(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.bool_]:
    """Say which values lie from `low` to `high`, both included."""
    found: NDArray[np.bool_] = (values >= low * (1 - TOLERANCE)) & (values <= high * (1 + TOLERANCE))
    return found
