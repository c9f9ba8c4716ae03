"""Disks of any size, where the system lets the tests have some."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """Mount a disk of that size at a new folder, or skip the calling test where that is not allowed."""
    folder.mkdir()
    size = f"size={kilobytes}k"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here ({mounted.stderr.strip()}); needs root")
    try:
        yield folder
    finally:
        # Index files may still be mapped into memory.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def make_read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def enlarge(folder: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(folder)], check=True)


def fill(folder: Path, *, but: int = 0) -> None:
    """Fill a disk up to `but` bytes."""
    content = b"0" * 1024
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(content) == len(content):
                pass
        except OSError:
            pass
        file.truncate(max(0, file.tell() - but))
