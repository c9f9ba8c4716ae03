"""Memory that a process keeps; looked at from outside, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from raydet.cluster import allocator

FAULTS = """
import resource, sys, threading
import torch
from raydet.cluster.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def work():
    for _ in range(4):
        torch.ones(12_000_000).sum()  # 48 MB, above the largest block that glibc learns to keep
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(12_000_000).sum()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def faults(way: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_kept_for_the_next_forward():
    assert faults("kept") * 3 < faults("default")  # pages asked for anew


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False
