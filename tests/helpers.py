"""What several tests need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def data_folder(name: str) -> Path:
    """Return a real data set's folder, or skip the calling test where it is not there."""
    root = Path(os.environ.get("RAYDET_DATA", Path(__file__).parents[2] / "shared" / "data"))
    folder = root / name
    if not folder.is_dir():
        pytest.skip(f"real data set {name!r} is not at {folder}; set RAYDET_DATA to the folder that holds it")
    return folder
