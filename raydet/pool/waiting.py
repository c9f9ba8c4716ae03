"""Waiting for labels: a caller is woken when the last of its labels is there, not whenever any label is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from raydet.labels.desk import Key


class Waiting:
    """Who waits for which labels, on one event loop. A label costs the time of those who want it, not of all."""

    def __init__(self) -> None:
        self._by_key: dict[Key, list[_Waiter]] = {}

    async def until_made(self, keys: Iterable[Key], timeout_s: float) -> None:
        """Return when all the keys were `made`, after `wake_all`, or after the time; the caller looks which it was."""
        waiter = _Waiter(set(keys))
        for key in waiter.missing:
            self._by_key.setdefault(key, []).append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter.woken.wait()
        except TimeoutError:
            pass
        finally:
            for key in waiter.missing:
                self._by_key[key].remove(waiter)
                if not self._by_key[key]:
                    del self._by_key[key]

    def made(self, key: Key) -> None:
        """A label is there."""
        for waiter in self._by_key.pop(key, []):
            waiter.missing.discard(key)
            if not waiter.missing:
                waiter.woken.set()

    def wake_all(self) -> None:
        """Something else has changed: everyone is to look again."""
        for waiters in self._by_key.values():
            for waiter in waiters:
                waiter.woken.set()


class _Waiter:
    def __init__(self, missing: set[Key]) -> None:
        self.missing = missing
        self.woken = asyncio.Event()
