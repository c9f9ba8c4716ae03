"""The model at work: names in, rows of a shard out. The same class serves this process and the actors."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import torch
from torch import Tensor, nn

from raydet.cluster.capacity import threads_for
from raydet.cluster.process import keep_freed_memory
from raydet.errors import DataError
from raydet.label_files.image_stores import ImageStore
from raydet.label_files.mount_check import SampleFile
from raydet.label_files.shards import SCHEMA
from raydet.label_files.work import shown, skipped
from raydet.precision import autocast_dtype

Row = Mapping[str, Any]
"""What is said of one image: the columns of `shards.SCHEMA`, but for its name and what went wrong."""


class FileModel(Protocol):
    """What a family says of images that belong to no run; small but for the model; travels to actors."""

    @property
    def model(self) -> nn.Module:
        """Return the model, on the CPU, in evaluation mode."""

    @property
    def threshold(self) -> float | None:
        """Return the class confidence that its method trains with; None: it has none."""

    @property
    def gray16_range(self) -> tuple[int, int]:
        """Return the values of 16-bit pictures that become 0 to 255."""

    def settings(self) -> dict[str, Any]:
        """Return all that its labels depend on, as plain data."""

    def see(self, pixels: Tensor) -> Any:
        """Return what the model sees of an image `[3, H, W]` uint8; called in threads that decode."""

    def say(self, model: nn.Module, seen: Sequence[Any], device: torch.device) -> list[Row]:
        """Return a row for each, from one forward of `model`, which is on `device`."""


@dataclass(frozen=True, slots=True)
class Job:
    """All that a labeller needs to know; travels to actors."""

    of: FileModel
    store: ImageStore
    device: str
    precision: str  # fp32, bf16 or fp16
    batch: int  # images per forward
    threads: int  # torch threads, and as many that decode
    samples: tuple[SampleFile, ...] = ()  # images that every node must see


Loading = list["Future[Any]"]


class Labeller:
    """Labels images by a family's model. Threads decode. Pieces may be begun in several threads; one forward runs at a
    time."""

    def __init__(self, job: Job) -> None:
        threads = threads_for(job.threads)
        torch.set_num_threads(threads)
        keep_freed_memory()
        self._job = job
        self._device = torch.device(job.device)
        self._dtype = autocast_dtype(job.precision, self._device)
        self._model = job.of.model.to(self._device).eval().requires_grad_(False)
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="raydet-decode")
        self._forward = threading.Lock()

    def begin(self, names: Sequence[str]) -> Loading:
        """Start to decode images."""
        return [self._decoders.submit(self._load, name) for name in names]

    def finish(self, names: Sequence[str], loading: Loading) -> pa.Table:
        """Return one row per image, in order; those that cannot be read have an `error`."""
        with self._forward:
            size = self._job.batch
            parts = [
                self._rows(names[start : start + size], loading[start : start + size])
                for start in range(0, len(names), size)
            ]
        return pa.concat_tables(parts)

    def label(self, names: Sequence[str]) -> pa.Table:
        """Do both."""
        return self.finish(names, self.begin(names))

    def _load(self, name: str) -> Any:
        return self._job.of.see(self._job.store.pixels(name))

    def _rows(self, names: Sequence[str], loading: Loading) -> pa.Table:
        seen: dict[int, Any] = {}
        reasons: dict[int, str] = {}
        for place, each in enumerate(loading):
            try:
                seen[place] = each.result()
            except (DataError, MemoryError) as error:
                reasons[place] = str(error) or "not enough memory to decode it"
        said = dict(zip(seen, self._say(list(seen.values())) if seen else [], strict=True))
        rows = [
            skipped([name], [reasons[place]]) if place in reasons else _table(name, said[place])
            for place, name in enumerate(names)
        ]
        return pa.concat_tables(rows)

    @torch.no_grad()
    def _say(self, seen: Sequence[Any]) -> list[Row]:
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None):
            return self._job.of.say(self._model, seen, self._device)


def _table(name: str, row: Row) -> pa.Table:
    values = {"image": shown(name), **row, "error": None}
    return pa.Table.from_arrays([pa.array([values[each.name]], each.type) for each in SCHEMA], schema=SCHEMA)
