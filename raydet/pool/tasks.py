"""Background work of an asynchronous actor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine


class Tasks:
    """Coroutines that run beside the actor's calls. None of their errors is lost."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._on_error = on_error
        self._running: set[asyncio.Task[None]] = set()  # the event loop itself holds tasks only weakly

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Start it; returns at once."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_error(error)
