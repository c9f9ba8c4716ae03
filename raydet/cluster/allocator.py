"""Keeping memory that a model will want again a moment later.

glibc hands large blocks back to the system when they are freed, from any thread but the first at every forward, and the
next forward pays for fresh pages. An actor that labels image after image spends a tenth of its time on that
(benchmarks/bulk_label.md).
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT = 1 << 28  # bytes: more than any one tensor of a forward on a CPU; a GPU's memory is not malloc's


def keep_freed_memory() -> bool:
    """Let this process keep what it frees; returns False where the C library is not glibc. Changes no result."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_MMAP_THRESHOLD, _KEPT), (_TRIM_THRESHOLD, 2 * _KEPT), (_ARENA_MAX, 2))
    return all([mallopt(name, value) == 1 for name, value in settings])
