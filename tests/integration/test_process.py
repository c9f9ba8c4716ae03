"""How a process that computes is set up; looked at from outside, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from raydet.cluster import process

pytestmark = pytest.mark.integration

FAULTS = """
import resource, sys, threading
import torch
from raydet.cluster.process import keep_freed_memory
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
    monkeypatch.setattr(process.sys, "platform", "darwin")
    assert process.keep_freed_memory() is False


DENORMALS = """
import threading
import torch
from raydet.cluster.process import set_up_process
if {late}:
    torch.ones(1_000_000).mul(2)  # the threads that share an operation are there already
set_up_process(2)
def left(count):
    smallest = torch.full((count,), 1e-40)  # below 1.2e-38 floats lose their leading bits
    return int((smallest * 0.5).view(torch.int32).count_nonzero())
print(torch.get_num_threads(), left(10), left(4_000_000))  # by this thread alone; shared with another
thread = threading.Thread(target=lambda: print(left(10)))
thread.start()
thread.join()
"""


@pytest.mark.parametrize("late", [False, True])
def test_all_threads_of_a_process_take_numbers_that_are_as_good_as_zero_for_zero(late: bool):
    code = DENORMALS.format(late=late)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "0", "0", "0"]


COMPUTING = """
import torch
from raydet.cluster.process import computing
def left():
    return int((torch.full((10,), 1e-40) * 0.5).view(torch.int32).count_nonzero())
with computing(1):
    inside = left()
print(inside, left())
"""


def test_a_process_that_trained_for_a_while_has_its_small_numbers_back():
    done = subprocess.run([sys.executable, "-c", COMPUTING], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "10"]
