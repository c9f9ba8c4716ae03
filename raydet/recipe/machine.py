"""The machine that a configuration is written for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raydet.text import plural

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to compute with, as `raydet doctor` sees it."""

    cpus: int
    memory_bytes: int
    gpu_bytes: tuple[int, ...] = ()  # memory of each GPU
    precision: str = "fp32"  # what `optim.precision: auto` means here
    load: float = 0.0  # programs that wanted a core in the last minute

    @classmethod
    def of(cls, facts: Mapping[str, Any], precision: str) -> Machine:
        """Return it from what `raydet.doctor.probe.look` says."""
        return cls(facts["cpus"], facts["memory_bytes"], tuple(facts["gpu_bytes"]), precision, facts["load"])

    @property
    def free_cpus(self) -> int:
        """Return how many cores other programs leave, at least 1.

        Threads of PyTorch that have to wait for a core hold up all others of their process: on two cores that were
        shared with twenty programs, a step with two threads took seventy times as long as with one.
        """
        return min(self.cpus, max(1, round(self.cpus - self.load)))

    @property
    def gpus(self) -> int:
        """Return how many GPUs there are."""
        return len(self.gpu_bytes)

    @property
    def is_cpu(self) -> bool:
        """Return whether everything runs on the CPU."""
        return not self.gpu_bytes

    def __str__(self) -> str:
        if self.is_cpu:
            return f"{plural(self.cpus, 'CPU core')}, {self.memory_bytes / GIB:.0f} GiB, no GPU"
        each = min(self.gpu_bytes) / GIB
        return f"{plural(self.gpus, 'GPU')} of {each:.0f} GiB, {plural(self.cpus, 'CPU core')}"
