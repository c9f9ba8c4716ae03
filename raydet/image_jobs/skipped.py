"""Shards to a list of what was skipped, shard by shard."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from raydet.files import replacing
from raydet.image_jobs.shards import read_shard


def export_skipped(shards: Sequence[Path], file: Path) -> int:
    """Write name and reason of every skipped image as CSV; returns how many there are."""
    number = 0
    with replacing(file) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8", newline="")
        table = csv.writer(text)
        table.writerow(("image", "reason"))
        for shard in shards:
            for row in read_shard(shard, ("image", "error")).to_pylist():
                if row["error"] is not None:
                    table.writerow((row["image"], row["error"]))
                    number += 1
        text.detach()  # flushes; `replacing` closes
    return number
