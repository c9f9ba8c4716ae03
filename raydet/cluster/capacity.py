"""What one machine can hold: cores that this process may use, memory that is free. For a Ray of one's own; no Ray here.

A local Ray takes whatever number of CPUs it is told to have; what lacks cores is slow, what lacks memory is killed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raydet.cluster.needs import Claim, arithmetic, total
from raydet.errors import ConfigError
from raydet.text import plural, size

CROWDED = 0.8  # share of the free memory from which on a warning is given
_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is."""

    cores: int
    free_bytes: int | None  # of memory, swap included; None where the system does not say


def this_machine(root: Path = _ROOT) -> Machine:
    """Return what this process can have, of the machine or of the container it is in; `root`: of the file system."""
    return Machine(cores(root), _free_bytes(root))


def cores(root: Path = _ROOT) -> int:
    """Return how many cores this process may use: those it is bound to, less where a container's quota is smaller."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    group = root / "sys/fs/cgroup"
    quota, period = (_text(group / "cpu.max").split() + ["", ""])[:2]
    if not quota:
        quota, period = _text(group / "cpu/cpu.cfs_quota_us"), _text(group / "cpu/cpu.cfs_period_us")
    if not (quota.isdecimal() and period.isdecimal() and int(period)):
        return bound
    return max(1, min(bound, math.ceil(int(quota) / int(period))))


def threads_for(cpus: float) -> int:
    """Return how many threads a process that claims so many Ray CPUs uses: no more than it has cores."""
    return max(1, min(int(cpus), cores()))


def own_bytes(root: Path = _ROOT) -> int:
    """Return the memory that is this process's alone: what another one that imports the same takes at least."""
    return _number(root / "proc/self/status", "RssAnon:") * 1024


def check_holds(claims: Sequence[Claim], machine: Machine, bytes_of: Mapping[str, int]) -> list[str]:
    """Return warnings, each with the sum, where the claims of a local Ray are more than the machine has.

    `bytes_of`: what one process of each kind takes at least. Raises ConfigError where memory cannot hold them.
    """
    warnings = []
    wanted = total(claims).get("CPU", 0.0)
    if wanted > machine.cores:
        warnings.append(
            f"{arithmetic(claims, 'CPU')}, together {wanted:g}; this machine has {plural(machine.cores, 'core')}: "
            f"processes take turns, and none uses more threads than there are cores"
        )
    need = sum(claim.count * bytes_of.get(claim.what, 0) for claim in claims)
    if machine.free_bytes is None or need <= CROWDED * machine.free_bytes:
        return warnings
    parts = " + ".join(
        f"{plural(claim.count, claim.what)} x {size(bytes_of[claim.what])}"
        for claim in claims
        if bytes_of.get(claim.what)
    )
    said = f"memory: {parts} = {size(need)} at least, measured on this process; {size(machine.free_bytes)} are free"
    if need > machine.free_bytes:
        raise ConfigError(
            f"{said}: the system would kill some of them. Use fewer (cluster.workers, pool.actors, --actors, "
            f"--concurrent), a machine with more memory, or a cluster (cluster.address)"
        )
    return [*warnings, f"{said}: that is close"]


def _free_bytes(root: Path) -> int | None:
    info = root / "proc/meminfo"
    if not info.is_file():
        return None
    free = (_number(info, "MemAvailable:") + _number(info, "SwapFree:")) * 1024
    group = root / "sys/fs/cgroup"
    for limit, used, about, cached in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file "),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file ",
        ),
    ):
        most, now = _text(group / limit), _text(group / used)
        if most.isdecimal() and now.isdecimal():
            taken = int(now) - _number(group / about, cached)  # files that were read give way, as in MemAvailable
            free = min(free, max(0, int(most) - taken))
    return free


def _number(file: Path, name: str) -> int:
    """Return the number behind a name at the beginning of a line, 0 where there is none."""
    for line in _text(file).splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
