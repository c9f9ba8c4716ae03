"""What reading one compressed file may cost: a small one can unpack to far more than there is memory."""

from __future__ import annotations

from pathlib import Path

from raydet.errors import DataError

MOST_DEFLATED = 1_040  # zlib and gzip shrink by no more: what a file can hold at most
MAX_UNPACKED = 1 << 32  # bytes of one compressed file; the largest published one (SVHN, extra) has 1.6 billion
MAX_IMAGES = 1 << 24  # every image costs an id, however small it is; ImageNet-21k has 14 million


def check_count(file: Path, count: int) -> None:
    """Raise DataError where a file has more rows than are read."""
    if count > MAX_IMAGES:
        raise DataError(f"{file}: {count:,} images or labels, at most {MAX_IMAGES:,} are read; use a part of them")


def check_unpacked(file: Path, size: int, fix: str) -> None:
    """Raise DataError where a file unpacks to more bytes than are read."""
    if size > MAX_UNPACKED:
        raise DataError(f"{file}: {size:,} bytes unpacked, at most {MAX_UNPACKED:,} are read; {fix}")
