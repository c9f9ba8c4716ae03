"""How a process that computes is set up: its threads, its floats, its memory. Nothing of it changes a result by more
than numbers that are as good as zero.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raydet.cluster.capacity import threads_for

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT = 1 << 28  # bytes: more than any one tensor of a forward on a CPU; a GPU's memory is not malloc's


def set_up_process(threads: float) -> None:
    """Let a process of raydet's own compute with so many threads (at least one), and as fast as it can."""
    torch.set_num_threads(threads_for(threads))
    # Numbers below 1e-38 are computed a hundred times as slowly as others: gradients of losses that saturate are such.
    torch.set_flush_denormal(True)
    keep_freed_memory()


@contextmanager
def computing(threads: float) -> Iterator[None]:
    """Do the same for as long as the block lasts, in a process that may be somebody else's: its floats are its own."""
    set_up_process(threads)
    with flushing():
        yield


@contextmanager
def flushing() -> Iterator[None]:
    """Take numbers below 1e-38 for 0 for as long as the block lasts, in this thread: each has floats of its own."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def keep_freed_memory() -> bool:
    """Let this process keep what it frees; returns False where the C library is not glibc. Changes no result.

    glibc hands large blocks back to the system when they are freed, and the next forward pays for fresh pages: a tenth
    of the time of a labelling actor (benchmarks/bulk_label.md), a seventh of a training step (benchmarks/step.md).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_MMAP_THRESHOLD, _KEPT), (_TRIM_THRESHOLD, 2 * _KEPT), (_ARENA_MAX, 2))
    return all([mallopt(name, value) == 1 for name, value in settings])
