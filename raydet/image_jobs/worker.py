"""Names in, rows of a shard out. The same class serves this process and the actors."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import torch

from raydet.cluster.capacity import threads_for
from raydet.cluster.process import flushing, keep_freed_memory
from raydet.errors import DataError
from raydet.image_jobs.image_stores import ImageStore, Picture
from raydet.image_jobs.mount_check import SampleFile
from raydet.image_jobs.work import shown, skipped

Row = Mapping[str, Any]
"""What is said of one image: the columns of the task's schema, but for its name and what went wrong."""


class Speaker(Protocol):
    """A task at work in one process."""

    def see(self, picture: Picture) -> Any:
        """Return what is needed of an image; called in several threads at once."""

    def say(self, seen: Sequence[Any]) -> list[Row]:
        """Return a row for each; one call at a time."""


class Task(Protocol):
    """What is to be said of images. Small, or worth its size: it travels to actors."""

    @property
    def schema(self) -> pa.Schema:
        """Return the columns of a row: the first is `image`, the last `error`, and all but `image` may be null."""

    @property
    def batch(self) -> int:
        """Return how many images `Speaker.say` is given at once."""

    def begin(self) -> Speaker:
        """Do all that can fail, in the process that is to work."""


@dataclass(frozen=True, slots=True)
class Job:
    """All that a worker needs to know; travels to actors."""

    task: Task
    store: ImageStore
    threads: int  # torch threads, and as many that decode
    samples: tuple[SampleFile, ...] = ()  # images that every node must see


Loading = list["Future[Any]"]


class Worker:
    """Works off pieces. Threads decode. Pieces may be begun in several threads; the task says something in one."""

    def __init__(self, job: Job) -> None:
        threads = threads_for(job.threads)
        torch.set_num_threads(threads)
        keep_freed_memory()
        self._job = job
        self._speaker = job.task.begin()
        self._decoders = ThreadPoolExecutor(
            threads, "raydet-decode", initializer=torch.set_flush_denormal, initargs=(True,)
        )
        self._saying = threading.Lock()

    def begin(self, names: Sequence[str]) -> Loading:
        """Start to decode images."""
        return [self._decoders.submit(self._load, name) for name in names]

    def finish(self, names: Sequence[str], loading: Loading) -> pa.Table:
        """Return one row per image, in order; those that cannot be read have an `error`."""
        with self._saying, flushing():  # pieces come in several threads
            size = self._job.task.batch
            parts = [
                self._rows(names[start : start + size], loading[start : start + size])
                for start in range(0, len(names), size)
            ]
        return pa.concat_tables(parts)

    def rows(self, names: Sequence[str]) -> pa.Table:
        """Do both."""
        return self.finish(names, self.begin(names))

    def close(self) -> None:
        """Give up what has been begun but for the images that are being decoded now: an image may take seconds."""
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def _load(self, name: str) -> Any:
        return self._speaker.see(self._job.store.picture(name))

    def _rows(self, names: Sequence[str], loading: Loading) -> pa.Table:
        seen: dict[int, Any] = {}
        reasons: dict[int, str] = {}
        for place, each in enumerate(loading):
            try:
                seen[place] = each.result()
            except (DataError, MemoryError) as error:
                reasons[place] = str(error) or "not enough memory to decode it"
        said = dict(zip(seen, self._speaker.say(list(seen.values())) if seen else [], strict=True))
        schema = self._job.task.schema
        rows = [
            skipped([name], [reasons[place]], schema) if place in reasons else _table(name, said[place], schema)
            for place, name in enumerate(names)
        ]
        return pa.concat_tables(rows)


def _table(name: str, row: Row, schema: pa.Schema) -> pa.Table:
    values = {"image": shown(name), **row, "error": None}
    return pa.Table.from_arrays([pa.array([values[each.name]], each.type) for each in schema], schema=schema)
