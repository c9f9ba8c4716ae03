"""Which boxes of an image are kept: those of a moderate shape and size (ADePT, Section 4.1). Pure functions.

Boxes are float64 `[P, 4]`, x1 y1 x2 y2 with the right and lower edge excluded, in pixels of the original image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raydet.data.proposals import Fallback
from raydet.errors import ConfigError

Boxes = NDArray[np.float64]

TOLERANCE = 1e-9  # relative: bounds are inclusive, and what equals one may be rounded to either side of it
FALLBACK_SIDE = 32.0  # pixels: what SoCo asks of a box where nothing passes all filters


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

    def kept(self, boxes: Boxes, width: int, height: int) -> tuple[Boxes, Fallback]:
        """Return the boxes of an image to keep: at least one, each once, sorted; and which filters those have passed.

        Boxes are clipped to the image first; those without an area are none. The order (x1, then y1, x2, y2) does not
        depend on that of the source. A box's id is its place counted from 1.
        """
        boxes = np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), 0.0, (width, height, width, height))
        sides = boxes[:, 2:] - boxes[:, :2]
        boxes = np.unique(boxes[(sides > 0).all(axis=1)], axis=0)
        sides = boxes[:, 2:] - boxes[:, :2]
        ratio = sides[:, 0] / sides[:, 1]
        fits = _within(ratio, *self.aspect_range)
        # Squared, as two square roots would round 30 x 75 of 100 x 250 to less than 0.3.
        share = sides.prod(axis=1) / (width * height)
        sized = _within(share, self.sqrt_area_range[0] ** 2, self.sqrt_area_range[1] ** 2)
        large = (sides >= FALLBACK_SIDE).all(axis=1)
        passed = {
            Fallback.NONE: fits & sized & (sides >= self.min_side).all(axis=1),
            Fallback.ASPECT: fits & large,
            Fallback.SIDE: large,
        }
        for fallback, mask in passed.items():
            if mask.any():
                return boxes[mask], fallback
        return np.array([[0.0, 0.0, width, height]]), Fallback.IMAGE


def _within(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.bool_]:
    """Say which values lie from `low` to `high`, both included."""
    found: NDArray[np.bool_] = (values >= low * (1 - TOLERANCE)) & (values <= high * (1 + TOLERANCE))
    return found
