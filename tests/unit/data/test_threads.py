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


def test_the_first_error_is_raised():
    def look(item: int) -> int:
        if item in (700, 900):
            raise ValueError(str(item))
        time.sleep(0.0001)
        return item

    with pytest.raises(ValueError, match="700"):
        list(in_threads(look, range(2000)))
