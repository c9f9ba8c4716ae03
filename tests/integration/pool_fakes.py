"""A cheap teacher for the pool's tests, with delays, faults and a log of what it did; pools and clients of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

from raydet.config.run import PoolConfig
from raydet.errors import UserError
from raydet.pool.launch import start_broker, stop_broker
from raydet.pool.scaling import PoolTiming
from raydet.pool.source import PoolSource
from raydet.records import PseudoBoxes
from raydet.vision.weights import to_arrays
from tests.unit.labels.fakes import FakeAnnotator, fake_label, ref_of, same, weights_of


@dataclass(frozen=True)
class Factory:
    """Builds a teacher that notes each label it makes in `log` and works for `delay_s` (varied by image) on it."""

    log: Path
    delay_s: float = 0.0
    bad: tuple[str, ...] = ()
    deadly: tuple[str, ...] = ()

    def __call__(self) -> LoggingAnnotator:
        return LoggingAnnotator(self)

    def made(self) -> list[tuple[int, str, int]]:
        """Return (version, image id, process id) of every label made so far."""
        lines = self.log.read_text().split("\n")[:-1] if self.log.exists() else []
        return [(int(version), image_id, int(pid)) for version, image_id, pid in map(str.split, lines)]


@dataclass(frozen=True)
class SaysItsArithmetic:
    """Builds a teacher that labels nothing, and says instead what the run computes in."""

    def __call__(self) -> FakeAnnotator:
        return SayingAnnotator()


class SayingAnnotator(FakeAnnotator):
    def label(self, image_ids: Sequence[str]) -> list[PseudoBoxes]:
        raise UserError(str(self.begun))


@dataclass(frozen=True)
class CannotBeBuilt:
    def __call__(self) -> FakeAnnotator:
        raise FileNotFoundError("no such data folder")


@dataclass(frozen=True)
class DiesAtStart:
    def __call__(self) -> FakeAnnotator:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class LoggingAnnotator(FakeAnnotator):
    def __init__(self, factory: Factory) -> None:
        super().__init__(factory.bad)
        self.factory = factory

    def label(self, image_ids: Sequence[str]) -> list[PseudoBoxes]:
        assert self.ref is not None
        labels = []
        for image_id in image_ids:
            if image_id in self.factory.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            labels += super().label([image_id])
            time.sleep(self.factory.delay_s * (sum(map(ord, image_id)) % 5) / 2)  # 0 to twice delay_s
            with self.factory.log.open("a") as log:
                log.write(f"{self.ref.version} {image_id} {os.getpid()}\n")
        return labels


def publish(source, *versions):
    for version in versions:
        source.publish(ref_of(version), weights_of(version))


def assert_right(labels, image_ids, version):
    expected = [fake_label(image_id, ref_of(version), 8.0 * version) for image_id in image_ids]
    assert all(same(a, b) for a, b in zip(labels, expected, strict=True))


class Rank:
    """A training process; the tests make it a Ray actor."""

    def __init__(self, broker, rank):
        self.source = PoolSource(broker, rank=rank, attempt=1, timeout_s=40, poll_s=0.5)
        self.source.rewind(0)

    def publish(self, *versions):
        publish(self.source, *versions)

    def take(self, image_ids, version):
        assert_right(self.source.take(image_ids, version), image_ids, version)
        return self.source.stats()


class Owner:
    """Owns an object; the tests make it a Ray actor."""

    def put(self):
        return [ray.put(to_arrays(weights_of(0)))]


QUICK = PoolTiming(tick_s=0.05, late_s=0.1, idle_s=0.3)


@contextmanager
def pool(folder, factory, **settings):
    config = PoolConfig(**{"cpus_per_actor": 0.5, "images_per_call": 2, **settings})
    broker = start_broker(config, factory, folder / "labels", timing=QUICK)
    try:
        yield broker
    finally:
        stop_broker(broker, timeout_s=30)


def client(broker, *, rank=0, attempt=1, timeout_s=40.0, version=0) -> PoolSource:
    source = PoolSource(broker, rank=rank, attempt=attempt, timeout_s=timeout_s, poll_s=0.5)
    source.rewind(version)
    return source


def names(number, prefix="i"):
    return [f"{prefix}{n}" for n in range(number)]


def teachers(broker) -> dict[str, int]:
    found = ray.get(broker.teachers.remote(), timeout=30)
    return {name: pid for name, pid in found.items() if pid is not None}


def wait_until(claim, *, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def broker_pid(broker):
    return ray.get(broker.__ray_call__.remote(lambda _: os.getpid()), timeout=30)
