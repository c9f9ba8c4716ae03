"""Some of many, evenly spaced: what a look at a part is taken of."""

from __future__ import annotations

import numpy as np


def evenly(number: int, most: int) -> list[int]:
    """Return up to `most` places of `number`, evenly spaced, ascending: the first and the last, and between them."""
    places: list[int] = np.unique(np.linspace(0, number - 1, min(most, number)).round().astype(np.int64)).tolist()
    return places
