"""Work shown while it goes on: a picture that is drawn anew on a terminal, plain lines elsewhere.

A thread looks along and only ever reads: whatever goes wrong with the display, the work does not notice.
"""

from __future__ import annotations

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live

POLL_S = 0.5


class LiveDisplay(ABC):
    """Shows some work for the length of a `with` block; exceptions pass through.

    What is shown is up to `poll`, `line` and `render`, which the display's thread calls one at a time.
    """

    def __init__(self, *, interval_s: float, console: Console | None = None) -> None:
        """`interval_s`: seconds between two lines about how far it is, where there is no terminal."""
        # A console of its own file: others may redirect sys.stdout while the thread writes.
        self._console = console or Console(file=sys.stdout, highlight=False)
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="display", daemon=True)

    def begin(self) -> None:
        """Take note of what was there before; the default does so with `poll`."""
        for _ in self.poll():
            pass

    def poll(self) -> Iterable[str]:
        """Look what is new; return lines about what deserves one of its own."""
        return ()

    @abstractmethod
    def line(self) -> str | None:
        """Return a line about how far it is, None where that was said before or there is nothing to say."""

    @abstractmethod
    def render(self, height: int) -> RenderableType:
        """Return the picture for a terminal of so many lines."""

    def __enter__(self) -> Self:
        self.begin()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show the last state and wait for the thread to end."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            if self._console.is_terminal and not self._console.is_dumb_terminal:
                self._draw()
            else:
                self._print_lines()
        except Exception as error:  # the work is worth more than its display
            print(f"raydet: the progress display stopped: {type(error).__name__}: {error}", file=sys.stderr)

    def _draw(self) -> None:
        with Live(console=self._console, auto_refresh=False, vertical_overflow="crop") as live:
            is_last = False
            while not is_last:
                is_last = self._stop.wait(POLL_S)
                for _ in self.poll():
                    pass
                live.update(self.render(self._console.height), refresh=True)

    def _print_lines(self) -> None:
        is_last, next_line = False, 0.0
        while not is_last:
            is_last = self._stop.wait(POLL_S)
            for text in self.poll():
                self._print(text)
            if (is_last or time.monotonic() >= next_line) and (line := self.line()) is not None:
                self._print(line)
                next_line = time.monotonic() + self._interval_s

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
