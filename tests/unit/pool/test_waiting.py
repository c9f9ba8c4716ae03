"""Waiting for labels, without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from raydet.pool.waiting import Waiting

LONG = 60.0


async def started(*waits: Coroutine[object, object, None]) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.sleep(0)
    return tasks


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_a_caller_is_woken_by_the_last_of_its_labels_and_by_no_other():
    async def run() -> None:
        waiting = Waiting()
        first, second = await started(
            waiting.until_made([(1, "a"), (1, "b")], LONG), waiting.until_made([(1, "b"), (1, "c")], LONG)
        )
        waiting.made((1, "b"))
        waiting.made((2, "a"))  # another version
        await turns()
        assert not first.done()
        waiting.made((1, "a"))
        await turns()
        assert first.done()
        assert not second.done()
        waiting.made((1, "c"))
        await turns()
        assert second.done()

    asyncio.run(run())


def test_all_are_woken_by_other_news():
    async def run() -> None:
        waiting = Waiting()
        tasks = await started(*(waiting.until_made([(0, str(i)), (0, "shared")], LONG) for i in range(4)))
        waiting.wake_all()
        await asyncio.wait_for(asyncio.gather(*tasks), LONG)

    asyncio.run(run())


@pytest.mark.parametrize("how", ["made", "woken", "late", "cancelled"])
def test_nothing_is_kept_of_a_caller_that_has_gone(how: str):
    async def run() -> None:
        waiting = Waiting()
        (task,) = await started(waiting.until_made([(0, "a"), (0, "b")], 0.01 if how == "late" else LONG))
        waiting.made((0, "a"))
        if how == "made":
            waiting.made((0, "b"))
        elif how == "woken":
            waiting.wake_all()
        elif how == "cancelled":
            task.cancel()
        await asyncio.wait([task], timeout=LONG)
        assert not waiting._by_key

    asyncio.run(run())
