"""Which labelled images are withheld for evaluation where there is no validation set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raydet.errors import DataError
from raydet.randomness import derive_seed


def withheld(
    ids: Sequence[str], rows: NDArray[np.int64], classes: NDArray[np.int64], seed: int, count: int
) -> NDArray[np.int64]:
    """Draw `count` images that no class needs; returns their rows, ascending. See `spare`.

    Raises DataError where fewer can be withheld.
    """
    taken = spare(ids, rows, classes, seed, count)
    if len(taken) < count:
        raise DataError(
            f"data.val_count is {count}, but only {len(taken)} of {len(ids)} labelled images can be withheld without "
            f"taking a class its last one; lower it, or give data.val"
        )
    return np.sort(np.array(taken, dtype=np.int64))


def spare(ids: Sequence[str], rows: NDArray[np.int64], classes: NDArray[np.int64], seed: int, count: int) -> list[int]:
    """Return up to `count` images that no class needs, in the order in which they would be withheld.

    Image `rows[b]` shows class `classes[b]`. Images come in the order of a shuffle of seed and ids; the last one
    of a class is passed over. Images that show nothing stay: they say little about a model.
    """
    pairs = np.unique(np.column_stack([rows, classes]), axis=0)  # each class once an image
    left = np.bincount(pairs[:, 1])
    shown = np.split(pairs[:, 1], np.searchsorted(pairs[:, 0], np.arange(1, len(ids))))
    taken: list[int] = []
    for row in sorted(range(len(ids)), key=lambda row: derive_seed(seed, "val", ids[row])):
        if len(taken) == count:
            break
        if len(shown[row]) and (left[shown[row]] > 1).all():
            left[shown[row]] -= 1
            taken.append(row)
    return taken
