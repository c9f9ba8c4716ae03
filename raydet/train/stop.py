"""Asking a run to stop: RUN/stop holds a reason, or nothing while nobody has asked.

Whoever wants the run to stop writes into the file, from any node. The lead rank reads it twice a second and tells the
others with the sum that each step needs anyway, so that all ranks leave after the same step and save a checkpoint. The
file is there from the start and is read, not looked for: network file systems may believe for a minute that a file is
still missing, but show what a file holds to whoever opens it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from raydet.errors import Terminated

POLL_S = 0.5


def ask_to_stop(file: Path, reason: str) -> None:
    """Let the run stop after the step it is in. Raises OSError where the file cannot be written."""
    with file.open("w", encoding="utf-8") as open_file:
        open_file.write(f"{reason}\n")
        open_file.flush()
        os.fsync(open_file.fileno())


@contextmanager
def watching(file: Path | None) -> Iterator[Callable[[], bool]]:
    """Within the block a thread looks whether somebody asked; the function that comes with it says so without a wait.

    Without a file nobody ever asks.
    """
    asked, over = threading.Event(), threading.Event()

    def watch(file: Path) -> None:
        while not over.wait(POLL_S):
            # A run started by other means has no such file; a disk that hiccups is asked again.
            with suppress(OSError):
                if file.read_bytes():
                    asked.set()
                    return

    thread = threading.Thread(target=watch, args=(file,), name="stop-watch", daemon=True)
    if file is not None:
        thread.start()
    try:
        yield asked.is_set
    finally:
        over.set()
        if file is not None:
            thread.join()


@contextmanager
def sigterm_asks(file: Path) -> Iterator[None]:
    """Within the block the first SIGTERM asks the run to stop; a second raises Terminated, as does a full disk.

    Signals reach a process's main thread only: in another thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, terminate)
        try:
            ask_to_stop(file, "SIGTERM")
        except OSError:
            raise Terminated from None
        # Not print: the signal may have come in the middle of one.
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, _SAID)

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_SAID = b"raydet: SIGTERM: stops after this step, with a checkpoint; a second SIGTERM ends it at once\n"
