"""Which images a step uses: a pure function of (seed, name, step), in constant memory for any number of images.

Nothing has to be saved to resume, on any number of workers, and any step can be looked up ahead of time. Where images
are listed more than once, by what was learned about them, it is a function of (seed, name, step, the last listing).

A listing is counted at a rebuild and begins `lookahead` steps later: labels are asked for so many steps ahead, so at
the rebuild of step b the steps below b + lookahead are settled, and no step from there on has been asked for. Hence
which images belong to step t is known when it is first asked for, at step t - lookahead, and never changes after.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """How often the images of a set are listed in an epoch, from a step on."""

    set_name: str  # "labeled" or "unlabeled"
    first_step: int
    factors: NDArray[np.float64]  # [images], 1 or above; the part of one is drawn anew every epoch


@dataclass(frozen=True, slots=True)
class Rebuilds:
    """At which steps the unlabelled images are listed anew: pure arithmetic."""

    start: int  # labels of steps from here on are counted
    every: int
    lookahead: int  # a listing begins so many steps after its rebuild

    def __post_init__(self) -> None:
        if self.start < 0 or not 0 <= self.lookahead < self.every:
            raise ValueError(f"need start >= 0 and 0 <= lookahead < every; got {self}")

    def is_due(self, step: int) -> bool:
        """Whether images are listed anew when so many steps are done."""
        return step > self.start and (step - self.start) % self.every == 0

    def window(self, step: int) -> range:
        """Return the steps whose labels a rebuild counts."""
        return range(step - self.every, step)

    def first_step(self, step: int) -> int:
        """Return the step that the listing of a rebuild begins with."""
        return step + self.lookahead

    def known_until(self, step: int) -> int:
        """Return the first step whose images are not settled before the next rebuild, one at `step` included."""
        since = max(1, -(-(step - self.start) // self.every))
        return self.first_step(self.start + since * self.every)


class RepeatedOrder:
    """An endless shuffle in which an epoch lists image i `factors[i]` times, its part of one drawn anew every epoch.

    With factors of 1 it is `BatchOrder`. The lengths of epochs differ, so an epoch is found by walking from the first.
    """

    def __init__(self, factors: NDArray[np.float64], batch: int, seed: int, name: str, *, first_step: int = 0) -> None:
        """List `factors` `[n]`, each 1 or above, for steps of `batch` from `first_step` on."""
        if batch < 1 or not len(factors) or not bool((np.isfinite(factors) & (factors >= 1)).all()):
            raise ValueError(f"an order needs a batch, and images that are listed at least once, got {factors}")
        self.batch, self.first_step = batch, first_step
        self._factors = factors.astype(np.float64)
        self._seed = np.uint64(derive_seed(seed, "order", name, *([first_step] if first_step else [])))
        self._starts = [0]  # place at which each known epoch starts, and the last one ends
        self._ends: dict[int, NDArray[np.int64]] = {}  # of the newest epochs: where each image's places end

    def positions(self, step: int) -> NDArray[np.int64]:
        """Return the positions `[batch]` of the global batch of `step`, in slot order."""
        if step < self.first_step:
            raise ValueError(f"step {step}: this order begins with step {self.first_step}")
        first = (step - self.first_step) * self.batch
        places = np.arange(first, first + self.batch, dtype=np.int64)
        while self._starts[-1] <= places[-1]:
            self._starts.append(self._starts[-1] + int(self._listed(len(self._starts) - 1)[-1]))
        found = np.empty(self.batch, dtype=np.int64)
        epochs = np.searchsorted(self._starts, places, side="right") - 1
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            own, ends = epochs == epoch, self._listed(epoch)
            keys = np.broadcast_to(self._key(epoch), (int(own.sum()),))
            listed = _shuffled(places[own] - self._starts[epoch], keys, int(ends[-1]))
            found[own] = np.searchsorted(ends, listed, side="right")
        return found

    def _key(self, epoch: int) -> NDArray[np.uint64]:
        return _mix(np.array([self._seed]) + np.uint64(epoch) * np.array([_GOLDEN], dtype=np.uint64))

    def _listed(self, epoch: int) -> NDArray[np.int64]:
        """Return where the places of each image end `[n]` in the list of an epoch."""
        if epoch not in self._ends:
            whole = np.floor(self._factors)
            drawn = _mix(self._key(epoch) ^ _mix(np.arange(len(whole), dtype=np.uint64))) >> np.uint64(11)
            counts = whole + (drawn * 2.0**-53 < self._factors - whole)
            self._ends = {**{e: ends for e, ends in self._ends.items() if e == epoch - 1}}
            self._ends[epoch] = np.cumsum(counts.astype(np.int64))
        return self._ends[epoch]


class ListedOrder:
    """The order of a set over a whole run: every image once an epoch, until a listing says otherwise."""

    def __init__(self, num_images: int, batch: int, seed: int, name: str) -> None:
        """Shuffle `num_images` positions for steps of `batch`; `name`: the set's, also of the stream."""
        self.batch = batch
        self._num_images, self._seed, self._name = num_images, seed, name
        self._plain = BatchOrder(num_images, batch, seed, name)
        self._listed: list[RepeatedOrder] = []
        self._until: int | None = None

    def list_anew(self, listings: list[Listing], until: int | None) -> None:
        """Follow other listings, by their first steps; steps from `until` on are not known yet (None: all are).

        Raises ValueError for a listing of other images.
        """
        known = {order.first_step: order for order in self._listed}
        for listing in listings:
            if len(listing.factors) != self._num_images:
                raise ValueError(
                    f"a listing of {len(listing.factors):,} images for the {self._num_images:,} of the {self._name} set"
                )
        self._listed = [
            known.get(each.first_step)
            or RepeatedOrder(each.factors, self.batch, self._seed, self._name, first_step=each.first_step)
            for each in sorted(listings, key=lambda each: each.first_step)
        ]
        self._until = until

    def positions(self, step: int) -> NDArray[np.int64]:
        """Return the positions `[batch]` of the global batch of `step`, in slot order."""
        assert self._until is None or step < self._until, (
            f"the images of step {step} were asked for before the rebuild that settles them; known are those below "
            f"{self._until}"
        )
        number = bisect_right([order.first_step for order in self._listed], step)
        return self._listed[number - 1].positions(step) if number else self._plain.positions(step)


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
