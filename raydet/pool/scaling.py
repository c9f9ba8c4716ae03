"""How many teacher actors there should be: pure arithmetic on the state of the queue. It changes no label."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolTiming:
    """Seconds and counts that a run never sets; tests shorten them."""

    tick_s: float = 1.0  # between looks at the queue
    late_s: float = 3.0  # the queue must be this long deeper than the teachers can hold before the pool grows
    idle_s: float = 30.0  # a teacher must be idle for this long before the pool shrinks
    deaths_per_key: int = 4  # an image whose teacher died so often while at work on it is given up
    deaths_at_start: int = 5  # so many teachers in a row that never started are an error


class Sizer:
    """Looks at the pool now and then, and says how many teachers it should have: at most one more or one less."""

    def __init__(self, low: int, high: int, timing: PoolTiming) -> None:
        self._low, self._high, self._timing = low, high, timing
        self._late_since: float | None = None

    def next_size(self, size: int, *, now: float, waiting: int, idle_for_s: float, is_starting: bool) -> int:
        """Return the number of teachers to have next, within low..high.

        `now`: a clock in seconds. `waiting`: labels that wait although every teacher has all the calls it may have.
        `idle_for_s`: how long the idlest teacher has had nothing to do. While one `is_starting` the pool does not grow.
        """
        if not waiting:
            self._late_since = None
        elif self._late_since is None:
            self._late_since = now
        late_for_s = 0.0 if self._late_since is None else now - self._late_since
        if size < self._high and waiting and late_for_s >= self._timing.late_s and not is_starting:
            self._late_since = None
            return size + 1
        if size > self._low and not waiting and idle_for_s >= self._timing.idle_s:
            return size - 1
        return size
