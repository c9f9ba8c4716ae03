"""How many images are read."""

from __future__ import annotations

from pathlib import Path

from raydet.errors import DataError

MAX_IMAGES = 1 << 24  # every image costs an id, however small it is; ImageNet-21k has 14 million


def check_count(file: Path, count: int) -> None:
    """Raise DataError where a file has more rows than are read."""
    if count > MAX_IMAGES:
        raise DataError(f"{file}: {count:,} images or labels, at most {MAX_IMAGES:,} are read; use a part of them")
