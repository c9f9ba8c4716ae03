"""What a run shows while it trains: a live panel on a terminal, plain lines elsewhere.

The lead rank, in this process or on another node, writes RUN/metrics.jsonl; a thread here reads along. It only ever
reads: whatever goes wrong with the display, the run does not notice.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live

from raydet.config.run import RunConfig
from raydet.metrics import FILE_NAME, Record, parse_record
from raydet.train.status import Status, event_line, panel, step_line

POLL_S = 0.5


class Tail:
    """Reads the records that were added to a metrics file since the last call, also when a restart rewrote the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = -1
        self._offset = 0
        self._seen_until = 0.0

    def poll(self) -> list[Record]:
        """Return new complete records, oldest first; none where the file does not exist yet."""
        try:
            with self._path.open("rb") as file:
                stat = os.fstat(file.fileno())
                is_rewritten = stat.st_ino != self._inode or stat.st_size < self._offset
                if is_rewritten:
                    self._inode, self._offset = stat.st_ino, 0
                file.seek(self._offset)
                lines, _, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        if not lines:
            return []
        records = [parse_record(line, str(self._path)) for line in lines.split(b"\n") if line.strip()]
        if is_rewritten:
            records = [record for record in records if record["time"] > self._seen_until]
        self._offset += len(lines) + 1
        self._seen_until = max([self._seen_until, *(record["time"] for record in records)])
        return records


class ProgressView:
    """Shows a run from `start()` to `stop()`, or for the length of a `with` block; exceptions pass through."""

    def __init__(self, run_dir: Path, config: RunConfig, *, console: Console | None = None) -> None:
        # A console of its own file: others may redirect sys.stdout while this thread writes.
        self._console = console or Console(file=sys.stdout, highlight=False)
        self._title = str(run_dir)
        self._tail = Tail(run_dir / FILE_NAME)
        self._status = Status(config.last_step, config.method.burn_in_steps)
        self._interval_s = config.log.plain_interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> ProgressView:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to show; what an earlier attempt left in the file counts as seen."""
        for record in self._tail.poll():
            self._status.take(record)
        self._status.end = {}
        self._thread.start()

    def stop(self) -> None:
        """Show the last records and stop. Waits for the display's thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            if self._console.is_terminal and not self._console.is_dumb_terminal:
                self._show_panel()
            else:
                self._print_lines()
        except Exception as error:  # the run is worth more than its display
            print(f"raydet: the progress display stopped: {type(error).__name__}: {error}", file=sys.stderr)

    def _show_panel(self) -> None:
        with Live(console=self._console, auto_refresh=False) as live:
            while True:
                is_last = self._stop.wait(POLL_S)
                for record in self._tail.poll():
                    self._status.take(record)
                live.update(panel(self._title, self._status), refresh=True)
                if is_last:
                    return

    def _print_lines(self) -> None:
        pending, next_line = False, 0.0
        while True:
            is_last = self._stop.wait(POLL_S)
            for record in self._tail.poll():
                if record["kind"] == "end" and pending:
                    self._print(step_line(self._status))
                    pending = False
                self._status.take(record)
                pending = pending or record["kind"] == "step"
                text = event_line(record)
                if text is not None:
                    self._print(text)
            if pending and (is_last or time.monotonic() >= next_line):
                self._print(step_line(self._status))
                pending, next_line = False, time.monotonic() + self._interval_s
            if is_last:
                return

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
