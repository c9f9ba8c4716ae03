"""One process that says something of images."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import torch

from raydet.image_jobs.worker import Job, Row, Worker


def denormals() -> int:
    """Return how many of ten numbers below 1e-38 this thread computes with; the others are 0."""
    return int((torch.full((10,), 1e-40) * 0.5).view(torch.int32).count_nonzero())


class Counting:
    """A task that says how many denormals were left where it decodes and where it speaks."""

    schema = pa.schema([("image", pa.string()), ("seen", pa.int64()), ("said", pa.int64()), ("error", pa.string())])
    batch = 2

    def begin(self) -> Counting:
        return self

    def see(self, picture: Any) -> int:
        return denormals()

    def say(self, seen: Sequence[int]) -> list[Row]:
        return [{"seen": each, "said": denormals()} for each in seen]


def test_no_thread_of_a_worker_computes_with_denormals_and_the_caller_has_its_own_back():
    worker = Worker(Job(Counting(), SimpleNamespace(picture=lambda name: name), threads=1))
    try:
        with ThreadPoolExecutor(1) as other:  # an actor answers in several threads
            tables = [worker.rows(["a", "b", "c"]), other.submit(worker.rows, ["d"]).result()]
            left = other.submit(denormals).result()
    finally:
        worker.close()
    rows = pa.concat_tables(tables).to_pylist()
    assert [(row["image"], row["seen"], row["said"]) for row in rows] == [(name, 0, 0) for name in "abcd"]
    assert (denormals(), left) == (10, 10)
