"""CPU time and memory of the processes below this one, from /proc. Linux only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
ROLES = {"ray::LabelBroker": "broker", "ray::TeacherActor": "teacher", "ray::RayTrainWorker": "trainer"}


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    title: str
    cpu_s: float
    rss_mb: float
    pss_mb: float  # shared pages divided by the number of processes that share them

    @property
    def role(self) -> str | None:
        return next((role for title, role in ROLES.items() if self.title.startswith(title)), None)


def descendants(root: int | None = None) -> list[Process]:
    """Return a process (default: this one) and all below it; those that end meanwhile are left out."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
    found = {os.getpid() if root is None else root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return [process for pid in sorted(found) if (process := look(pid)) is not None]


def look(pid: int) -> Process | None:
    """Return a process as it is now, or None where it is gone."""
    folder = Path("/proc") / str(pid)
    try:
        title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        memory = dict(
            line.split(":", 1) for line in (folder / "smaps_rollup").read_text().splitlines()[1:] if ":" in line
        )
    except OSError:
        return None
    cpu_s = (int(fields[11]) + int(fields[12])) * TICK_S
    rss, pss = (int(memory[name].split()[0]) / 1024 for name in ("Rss", "Pss"))
    return Process(pid, title, cpu_s, rss, pss)


def cpu_by_role() -> dict[str, float]:
    """CPU seconds so far of broker and teachers below this process."""
    seconds: dict[str, float] = {}
    for process in descendants():
        if process.role is not None:
            seconds[process.role] = seconds.get(process.role, 0.0) + process.cpu_s
    return seconds
