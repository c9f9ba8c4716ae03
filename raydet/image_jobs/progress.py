"""What a job says while it works: a line every few seconds, and the throughput of each actor at the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raydet.display import LiveDisplay
from raydet.text import clock, percent, plural

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


class Progress(LiveDisplay):
    """Counts images, and shows the counts where it is started: two threads may be in here."""

    def __init__(
        self,
        total: int,
        done: int,
        *,
        now: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        """`done` of `total` images were finished by an earlier call."""
        super().__init__(interval_s=INTERVAL_S, console=console)
        self._now = now
        self.total, self._before, self.skipped = total, done, 0
        self.starting = 0  # actors that have not started yet
        self.actors: dict[str, ActorCount] = {}
        self._news: deque[str] = deque()
        self._newest: deque[str] = deque(maxlen=4)  # shown on a terminal

    @property
    def images(self) -> int:
        """Images answered for in this call, the skipped ones included."""
        return sum(actor.images for actor in list(self.actors.values()))

    def started(self, actor: str, place: str) -> None:
        """Note that an actor is ready."""
        now = self._now()
        self.actors[actor] = ActorCount(place, now, now)

    def answered(self, actor: str, table: pa.Table) -> None:
        """Note an answer."""
        count = self.actors[actor]
        count.images += table.num_rows
        count.until = self._now()
        self.skipped += table.num_rows - table["error"].null_count

    def say(self, text: str) -> None:
        """Note what deserves a line of its own."""
        self._news.append(text)
        self._newest.append(text)

    def poll(self) -> Iterator[str]:
        """Yield what was said since the last call."""
        while self._news:
            yield self._news.popleft()

    def line(self) -> str | None:
        """Return how far it is: images, rate, time to go; or what is waited for."""
        if not self.images:
            is_waiting = self.starting and not self.actors
            return f"waiting for {plural(self.starting, 'actor')} to start" if is_waiting else None
        done = self._before + self.images
        rate = self.images / max(self._now() - min(actor.since for actor in list(self.actors.values())), 1e-9)
        share = f"{done:,}/{self.total:,} images ({percent(done / max(self.total, 1))} %)"
        eta = f"ETA {clock((self.total - done) / rate)}"
        return "  ".join([share, f"{rate:.3g} images/s", eta, f"skipped {self.skipped:,}"])

    def render(self, height: int) -> RenderableType:
        """Return a bar, the line, and the newest messages."""
        bar = Table.grid(expand=True)
        bar.add_row(ProgressBar(total=max(self.total, 1), completed=self._before + self.images))
        return Group(bar, Text(self.line() or "waiting for the first images ..."), *map(Text, self._newest))

    def summary(self) -> list[str]:
        """Return a line per actor that did something."""
        return [
            f"{name} ({count.place}): {plural(count.images, 'image')}, {count.rate:.3g} images/s"
            for name, count in self.actors.items()
            if count.images
        ]
