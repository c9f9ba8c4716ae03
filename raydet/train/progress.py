"""What a run shows while it trains: its metrics file, read along."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, RenderableType

from raydet.config.run import RunConfig
from raydet.display import LiveDisplay
from raydet.metrics import FILE_NAME, Record, parse_record
from raydet.train.status import Status, event_line, panel, step_line


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


class ProgressView(LiveDisplay):
    """Shows a run. The lead rank, in this process or on another node, writes what is read along here."""

    def __init__(self, run_dir: Path, config: RunConfig, *, console: Console | None = None) -> None:
        super().__init__(interval_s=config.log.plain_interval_s, console=console)
        self._title = str(run_dir)
        self._tail = Tail(run_dir / FILE_NAME)
        self._status = Status(config.last_step, config.method.burn_in_steps)
        self._has_news = False  # a step that no line was about

    def begin(self) -> None:
        """What an earlier attempt left in the file counts as seen."""
        super().begin()
        self._status.end, self._has_news = {}, False

    def poll(self) -> Iterator[str]:
        """Take in what was written; the last step has its line before the end's."""
        for record in self._tail.poll():
            if record["kind"] == "end" and (line := self.line()) is not None:
                yield line
            self._status.take(record)
            self._has_news = self._has_news or record["kind"] == "step"
            if (text := event_line(record)) is not None:
                yield text

    def line(self) -> str | None:
        """Return the newest step's figures."""
        had_news, self._has_news = self._has_news, False
        return step_line(self._status) if had_news else None

    def render(self, height: int) -> RenderableType:
        """Return the panel."""
        return panel(self._title, self._status)
