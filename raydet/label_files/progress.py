"""What `raydet label` says while it works: a line every few seconds, and the throughput of each actor at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from raydet.text import clock, percent

INTERVAL_S = 5.0


@dataclass(slots=True)
class ActorCount:
    """One actor's work."""

    place: str  # process and node
    since: float  # when it could begin, seconds of the clock
    until: float
    images: int = 0

    @property
    def rate(self) -> float:
        """Images per second, from its start to its last answer."""
        return self.images / max(self.until - self.since, 1e-9)


class Progress:
    """Counts images and speaks."""

    def __init__(
        self, total: int, done: int, say: Callable[[str], None] = print, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`done` of `total` images were finished by an earlier call."""
        self.say, self._clock = say, clock
        self.total, self._before, self.skipped = total, done, 0
        self.actors: dict[str, ActorCount] = {}
        self._next_line = clock() + INTERVAL_S

    @property
    def images(self) -> int:
        """Images answered for in this call, the skipped ones included."""
        return sum(actor.images for actor in self.actors.values())

    def started(self, actor: str, place: str) -> None:
        """Note that an actor is ready."""
        now = self._clock()
        self.actors[actor] = ActorCount(place, now, now)

    def answered(self, actor: str, table: pa.Table) -> None:
        """Note an answer."""
        count = self.actors[actor]
        count.images += table.num_rows
        count.until = self._clock()
        self.skipped += table.num_rows - table["error"].null_count

    def tick(self) -> None:
        """Say how far it is, if that is due."""
        if self._clock() >= self._next_line and self.actors:
            self._next_line = self._clock() + INTERVAL_S
            self.say(self.line())

    def waiting(self, actors: int) -> None:
        """Say that nothing happens because no actor has started, if that is due."""
        if self._clock() >= self._next_line:
            self._next_line = self._clock() + INTERVAL_S
            self.say(f"waiting for {actors} actors to start")

    def line(self) -> str:
        """Return how far it is: images, rate, time to go."""
        done, now = self._before + self.images, self._clock()
        seconds = max(now - min(actor.since for actor in self.actors.values()), 1e-9)
        rate = self.images / seconds
        parts = [f"{done:,}/{self.total:,} images ({percent(done / max(self.total, 1))} %)", f"{rate:.3g} images/s"]
        if rate:
            parts.append(f"ETA {clock((self.total - done) / rate)}")
        parts.append(f"skipped {self.skipped:,}")
        return "  ".join(parts)

    def summary(self) -> list[str]:
        """Return a line per actor that did something."""
        return [
            f"{name} ({count.place}): {count.images:,} images, {count.rate:.3g} images/s"
            for name, count in self.actors.items()
            if count.images
        ]
