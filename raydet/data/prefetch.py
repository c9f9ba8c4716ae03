"""Threads that prepare the images of coming steps while the present one trains."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
Jobs = TypeVar("Jobs", bound=tuple[list[Future], ...])  # type: ignore[type-arg]


class Prefetcher(Generic[Jobs]):
    """Starts the jobs of every step some steps ahead; a job is a pure function, so the threads change nothing."""

    def __init__(self, start: Callable[[int], Jobs], *, threads: int, ahead: int, end: int) -> None:
        """`start(step)` submits a step's jobs, in groups; no step from `end` on is prepared. 0 threads: none ahead."""
        self._start, self.end = start, end
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="raydet-loader") if threads else None
        self._ahead = ahead if threads else 0
        self._coming: dict[int, Jobs] = {}

    def submit(self, job: Callable[[], T], name: Callable[[], object]) -> Future[T]:
        """Run a job in a thread, or at once where there is none; what it raises says `name()`, the image's."""
        if self._threads is not None:
            return self._threads.submit(_naming, job, name)
        done: Future[T] = Future()
        done.set_result(_naming(job, name))
        return done

    def take(self, step: int) -> Jobs:
        """Return the jobs of a step, and see to those of the next ones; does not wait for the jobs."""
        wanted = range(step, max(step + 1, min(step + self._ahead + 1, self.end)))
        self._forget(set(self._coming).difference(wanted))
        for each in wanted:
            if each not in self._coming:
                self._coming[each] = self._start(each)
        return self._coming.pop(step)

    def close(self) -> None:
        """Drop what was prepared ahead and end the threads; waits for images being decoded right now."""
        self._forget(set(self._coming))
        if self._threads is not None:
            self._threads.shutdown()

    def _forget(self, steps: set[int]) -> None:
        for step in steps:
            for futures in self._coming.pop(step):
                for future in futures:
                    future.cancel()


def _naming(job: Callable[[], T], name: Callable[[], object]) -> T:
    """Run a job; whatever it raises says which image it was about."""
    try:
        return job()
    except Exception as error:
        error.add_note(f"while loading {name()}")
        raise
