"""Looking at many things in threads."""

from __future__ import annotations

import threading
import time

import pytest

from raydet.data.threads import THREADS, in_threads


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 4096, 4097, 9000])
def test_results_come_in_order_whatever_the_number(count: int):
    assert list(in_threads(lambda item: -item, range(count))) == [-item for item in range(count)]


def test_what_waits_is_looked_at_in_threads():
    def who(seconds: float) -> set[str]:
        def look(item: int) -> str:
            time.sleep(seconds)
            return threading.current_thread().name

        return set(in_threads(look, range(64 * 12)))

    own = threading.current_thread().name
    waiting = who(0.0005)
    assert own in waiting and 2 <= len(waiting) <= THREADS + 1  # the first are looked at here, and tell


def test_what_computes_is_looked_at_here_whatever_is_done_with_it(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]  # of a thread that never waits: both clocks say the same
    monkeypatch.setattr(time, "thread_time", lambda: now[0])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0] + waited[0])
    waited = [0.0]

    def look(item: int) -> str:
        now[0] += 1.0
        return threading.current_thread().name

    names = set()
    for name in in_threads(look, range(64 * 5)):
        names.add(name)
        waited[0] += 100.0  # the one who asks takes long: no reason to look in threads
    assert names == {threading.current_thread().name}


def test_the_first_error_is_raised():
    def look(item: int) -> int:
        if item in (700, 900):
            raise ValueError(str(item))
        time.sleep(0.0001)
        return item

    with pytest.raises(ValueError, match="700"):
        list(in_threads(look, range(2000)))
