"""Which images a step uses: a pure function of (seed, name, step), in constant memory for any number of images.

Nothing has to be saved to resume, on any number of workers, and any step can be looked up ahead of time.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from raydet.randomness import derive_seed

_ROUNDS = 16  # with fewer, some orders of a handful of images come up visibly more often than others
_GOLDEN = 0x9E3779B97F4A7C15


class BatchOrder:
    """An endless shuffle: every epoch is another permutation of `num_images`, batches run on across epochs.

    With `whole_epochs` they do not: an epoch's last images, too few for a batch, are left out of it, so that no batch
    ever holds an image twice.
    """

    def __init__(self, num_images: int, batch: int, seed: int, name: str, *, whole_epochs: bool = False) -> None:
        """Shuffle `num_images` positions for steps of `batch`; `name` separates orders of one seed."""
        if num_images < 1 or batch < 1:
            raise ValueError(f"an order needs images and a batch, got num_images={num_images}, batch={batch}")
        if whole_epochs and batch > num_images:
            raise ValueError(f"no batch of {batch} out of {num_images} images without one of them twice")
        self._per_epoch = num_images // batch * batch if whole_epochs else num_images
        self.num_images = num_images
        self.batch = batch
        self._seed = np.uint64(derive_seed(seed, "order", name))

    def positions(self, step: int) -> NDArray[np.int64]:
        """Return the positions `[batch]` of the global batch of `step`, in slot order."""
        drawn = np.arange(step * self.batch, (step + 1) * self.batch, dtype=np.int64)
        epoch, place = np.divmod(drawn, self._per_epoch)
        keys = _mix(self._seed + epoch.astype(np.uint64) * np.uint64(_GOLDEN))
        return _shuffled(place, keys, self.num_images)


def own_slots(batch: int, rank: int, world: int) -> range:
    """Return the contiguous share of a global batch that is one rank's."""
    return range(rank * batch // world, (rank + 1) * batch // world)


def _shuffled(place: NDArray[np.int64], keys: NDArray[np.uint64], n: int) -> NDArray[np.int64]:
    """Map each place `[B]` below `n` to its image under the permutation that its key `[B]` names.

    A Feistel network permutes the grid `rows x columns`, hardly larger than `n`; whoever lands outside `n` walks on
    along its cycle, which must come back inside.
    """
    rows = math.isqrt(n - 1) + 1
    columns = -(-n // rows)
    image = _feistel(place, keys, rows, columns)
    while (outside := image >= n).any():
        image[outside] = _feistel(image[outside], keys[outside], rows, columns)
    return image


def _feistel(place: NDArray[np.int64], keys: NDArray[np.uint64], rows: int, columns: int) -> NDArray[np.int64]:
    """Permute `[B]` places of a `rows x columns` grid: each half in turn is moved by a hash of the other."""
    left, right = np.divmod(place.astype(np.uint64), np.uint64(columns))
    for turn in range(_ROUNDS):
        key = keys + np.uint64(turn)
        if turn % 2 == 0:
            left = (left + _mix(key ^ _mix(right)) % np.uint64(rows)) % np.uint64(rows)
        else:
            right = (right + _mix(key ^ _mix(left)) % np.uint64(columns)) % np.uint64(columns)
    return (left * np.uint64(columns) + right).astype(np.int64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the SplitMix64 hash of each element."""
    x = x + np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
