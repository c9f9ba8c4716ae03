"""Looking at many files in threads: they wait for a disk, or for a file server, most of the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")

THREADS = 8
_CHUNK = 64  # items a task: handing over one at a time costs more than a look at a file
_WAITS = 3.0  # times as long as it computes
_AHEAD = 64  # tasks at a time, so that results of a million files do not pile up


def in_threads(look: Callable[[Item], Found], items: Sequence[Item]) -> Iterator[Found]:
    """Yield `look(item)` of all items in order, in threads where looking waits. Raises what the first of them raises.

    Where files come from memory threads only take the interpreter away from each other, and double the time: so of
    every few thousand items the first are looked at here, and tell.
    """
    step = _CHUNK * _AHEAD

    def look_at(start: int) -> list[Found]:
        return [look(item) for item in items[start : start + _CHUNK]]

    with ThreadPoolExecutor(THREADS) as pool:
        for begin in range(0, len(items), step):
            wall, cpu = time.perf_counter(), time.thread_time()
            first = look_at(begin)
            waits = time.perf_counter() - wall > _WAITS * (time.thread_time() - cpu)
            yield from first  # not before: what is done with them is not looking
            rest = range(begin + _CHUNK, min(begin + step, len(items)), _CHUNK)
            for found in (pool.map if waits else map)(look_at, rest):
                yield from found
