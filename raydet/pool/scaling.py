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


def next_size(
    size: int, low: int, high: int, *, late_for_s: float, idle_for_s: float, is_starting: bool, timing: PoolTiming
) -> int:
    """Return the number of actors to have next: at most one more or one less, within `low`..`high`.

    `late_for_s`: how long labels have been waiting although every teacher has all the calls it may have. `idle_for_s`:
    how long the idlest teacher has had nothing to do. While a new teacher `is_starting` the pool does not grow further.
    """
    if late_for_s >= timing.late_s and not is_starting:
        return min(size + 1, high) if size < high else size
    if late_for_s == 0 and idle_for_s >= timing.idle_s:
        return max(size - 1, low) if size > low else size
    return size
