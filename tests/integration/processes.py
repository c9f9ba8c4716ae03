"""Finding and killing processes of this test session's Ray, and of no other Ray on the host."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import ray

from raydet.metrics import read_metrics


def workers_titled(title: str) -> list[int]:
    """Return pids of our Ray's processes whose title begins with `title` (Ray names them after their actor)."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if command.startswith(title) and _is_ours(int(entry.name)):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return sorted(found)


def _is_ours(pid: int) -> bool:
    for _ in range(4):  # worker <- raylet <- this process
        pid = int((Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[1])
        if pid == os.getpid():
            return True
        if pid <= 1:
            return False
    return False


def steps_done(run: Path) -> int:
    """Return the newest step that RUN/metrics.jsonl knows of."""
    file = run / "metrics.jsonl"
    return (
        max((line["step"] for line in read_metrics(file) if line["kind"] == "step"), default=0) if file.exists() else 0
    )


class Killer(threading.Thread):
    """Kills one process, once, as soon as `when()` holds."""

    def __init__(self, title: str, when: Callable[[], bool]) -> None:
        super().__init__(daemon=True)
        assert ray.is_initialized()
        self.title, self.when, self.killed = title, when, 0
        self._stop_now = threading.Event()

    def run(self) -> None:
        while not self._stop_now.is_set():
            if self.when():
                pids = workers_titled(self.title)
                if pids:
                    os.kill(pids[0], signal.SIGKILL)
                    self.killed = pids[0]
                    return
            time.sleep(0.002)

    def __enter__(self) -> Killer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_now.set()
        self.join(10)
