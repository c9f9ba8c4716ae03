"""Simulated trainers and teachers around the real label broker, with or without Ray; see `broker_scale.py`."""

from __future__ import annotations

import asyncio
import cProfile
import io
import itertools
import os
import pstats
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from raydet.config.run import PoolConfig
from raydet.labels.schedule import LabelSchedule
from raydet.labels.schema import PSEUDO_BOXES
from raydet.pool.actors import Answer
from raydet.pool.broker import LabelBroker
from raydet.pool.messages import Reply
from raydet.pool.scaling import PoolTiming
from raydet.pool.teachers import Teacher, Teachers

BOXES = {"il_net": 282, "unbiased_teacher": 68}  # candidates per image, see store.md
WEIGHTS = {"w": np.zeros(1_000_000, dtype=np.float32)}  # 4 MB; what publishing costs is in pool.md


@dataclass(frozen=True)
class Load:
    """What is asked of the broker."""

    trainers: int = 256
    teachers: int = 128
    images: int = 4  # unlabelled ones per trainer and step
    step_s: float = 0.5
    label_s: float = 0.04
    method: str = "il_net"
    lookahead: int = 4
    publish_every: int = 10
    images_per_call: int = 4
    retires: bool = True

    @property
    def schedule(self) -> LabelSchedule:
        return LabelSchedule.moving(0, publish_every=self.publish_every, lookahead=self.lookahead)

    def pool(self) -> PoolConfig:
        return PoolConfig(actors=self.teachers, images_per_call=self.images_per_call, calls_in_flight=2)


class Labels:
    """Tables of real labels' size, made at next to no cost."""

    def __init__(self, method: str, rows: int = 64) -> None:
        n, draw = BOXES[method], np.random.default_rng(0)
        columns = {"boxes": 4 * n, "classes": n, "scores": n, "quality": n}
        self._columns = [
            pa.ListArray.from_arrays(
                pa.array(np.arange(rows + 1, dtype=np.int32) * width),
                pa.array((draw.random(rows * width) * 100).astype("int32" if name == "classes" else "float32")),
            )
            for name, width in columns.items()
        ]

    def table(self, version: int, digest: str, image_ids: Sequence[str]) -> pa.Table:
        n = len(image_ids)
        keys = [pa.array(image_ids), pa.array([version] * n, pa.int64()), pa.array([digest] * n)]
        rest = [column.slice(0, n) for column in self._columns]
        return pa.Table.from_arrays([*keys, *rest, pa.array([0.05] * n)], schema=PSEUDO_BOXES)


class TeacherHost:
    """Several simulated teachers; each works on one call at a time, as an actor does."""

    def __init__(self, load: Load) -> None:
        self._load, self._labels = load, Labels(load.method)
        self._draw = random.Random(0)
        self._busy: dict[int, asyncio.Lock] = {}

    async def start(self, number: int) -> int:
        self._busy[number] = asyncio.Lock()
        return os.getpid()

    async def label(
        self, number: int, version: int, digest: str, weights: list[object], image_ids: list[str]
    ) -> Answer:
        async with self._busy[number]:
            # Not in lockstep: each answer comes at a moment of its own.
            await asyncio.sleep(self._load.label_s * len(image_ids) * self._draw.uniform(0.5, 1.5))
            return Answer(self._labels.table(version, digest, image_ids), {})


class SimulatedTeachers(Teachers):
    """Teachers that live in other processes, several in each, and cannot be killed."""

    def _remove(self, member: Teacher) -> None:
        del self._members[member.name]


class SimulatedBroker(LabelBroker):
    """The broker with simulated teachers, and instruments."""

    def __init__(self, load: Load, folder: str, hosts: Sequence[Any]) -> None:
        keep = 20 if load.retires else None
        super().__init__(load.pool(), b"", folder, keep, PoolTiming())
        numbers = itertools.count()

        def create() -> Any:
            number = next(numbers)
            host = hosts[number % len(hosts)]
            return SimpleNamespace(
                start=SimpleNamespace(remote=lambda: host.start.remote(number)),
                label=SimpleNamespace(remote=lambda *call: host.label.remote(number, *call)),
            )

        self._teachers.__class__, self._teachers._create = SimulatedTeachers, create  # type: ignore[assignment]

    async def pid(self) -> int:
        return os.getpid()

    async def profile(self, on: bool) -> str:
        if on:
            self._profile = cProfile.Profile()
            self._profile.enable()
            return ""
        self._profile.disable()
        return where(self._profile)


def where(profile: cProfile.Profile, rows: int = 22) -> str:
    """The functions with most time of their own."""
    text = io.StringIO()
    stats = pstats.Stats(profile, stream=text)
    stats.sort_stats("tottime").print_stats(rows)
    stats.sort_stats("cumulative").print_stats(r"broker|desk|store|teachers|messages|spill", rows)
    return "\n".join(line for line in text.getvalue().splitlines() if line.strip())


class InProcess:
    """Lets an object be called as a Ray actor is, without Ray."""

    def __init__(self, target: object) -> None:
        self._target = target

    def __getattr__(self, name: str) -> SimpleNamespace:
        method = getattr(self._target, name)
        return SimpleNamespace(remote=lambda *call: asyncio.ensure_future(method(*call)))


class Trainers:
    """Some ranks of a run: the calls of `raydet.pool.source.PoolSource`, in the order of `raydet.train.loop`."""

    def __init__(self, load: Load, broker: Any, ranks: Sequence[int]) -> None:
        self._load, self._broker, self._ranks = load, broker, ranks
        self.waits: list[float] = []

    async def run(self, first: int, last: int) -> list[float]:
        """Do these steps; returns the seconds of every take()."""
        self.waits = []
        reply: Reply = await self._broker.rewind.remote(1, 0)
        barrier = asyncio.Barrier(len(self._ranks))
        await asyncio.gather(*(self._rank(rank, first, last, reply.incarnation, barrier) for rank in self._ranks))
        return self.waits

    async def _rank(self, rank: int, first: int, last: int, incarnation: str, barrier: asyncio.Barrier) -> None:
        load, schedule = self._load, self._load.schedule
        asked = first
        if rank == 0:  # what a run that goes on at this step would have published before
            version = schedule.version_for(first) or 0
            self._broker.publish.remote(1, version, f"{version:064x}", WEIGHTS)
        for s in range(first, last):
            if schedule.is_publish_step(s):
                if rank == 0:
                    self._broker.publish.remote(1, s, f"{s:064x}", WEIGHTS)
                if load.retires:
                    self._broker.retire.remote(1, schedule.version_for(s))
            while asked <= s + load.lookahead and (schedule.version_for(asked) or 0) <= s:
                self._broker.request.remote(1, schedule.version_for(asked), self._ids(rank, asked))
                asked += 1
            began = time.perf_counter()
            call = (1, incarnation, schedule.version_for(s), self._ids(rank, s), 5.0)
            while (await self._broker.take.remote(*call)).table is None:
                pass
            self.waits.append(time.perf_counter() - began)
            await barrier.wait()  # the reduction
            await asyncio.sleep(load.step_s)

    def _ids(self, rank: int, step: int) -> list[str]:
        return [f"train2017/{((step * 256 + rank) * 128 + i) % 10**12:012d}.jpg" for i in range(self._load.images)]


class SleepingAnnotator:
    """A real teacher process's annotator that only sleeps."""

    def __init__(self, load: Load) -> None:
        self._load = load

    def load(self, ref: Any, weights: Any, begun: Any = None) -> None:
        self._ref = ref

    def label(self, image_ids: Sequence[str]) -> list[Any]:
        import torch

        from raydet.records import PseudoBoxes

        time.sleep(self._load.label_s * len(image_ids))
        n = BOXES[self._load.method]
        floats, scores = torch.zeros(n), torch.linspace(1, 0.06, n)
        return [PseudoBoxes(i, self._ref, torch.rand(n, 4), floats.long(), scores, floats, 0.05) for i in image_ids]
