"""What the teacher pool costs and gives.

    python benchmarks/pool.py                       # all parts
    python benchmarks/pool.py --parts publish wait  # some

  publish  one teacher: snapshot, digest, sending it; also at the size of a ResNet-50 detector
  trainer  CPU time of the training process per mutual step: labels inline, from the pool, and for free
  labels   labels per second of 1..3 actors against the same annotator in a bare loop
  wait     share of the step that the trainer waits for labels, next to the sizing rule
           actors >= images per step x label time / step time. Next to it what an empty call to the broker takes: no
           sizing makes the waiting shorter than that

The trainer is raydet's loop in this process, which is a client of the broker exactly as a Ray Train worker is. Teachers
and broker are Ray actors. CPU seconds come from the processes themselves; wall clocks of a shared machine say little.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray
import torch
from common import (
    Clock,
    SteppedTrainer,
    arguments,
    base_config,
    burned_in,
    error_of_mean,
    in_turn,
    machine,
    ratio,
    spread,
)
from processes import cpu_by_role
from ray.actor import ActorHandle

from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import BOXES
from raydet.pool.launch import start_broker, stop_broker
from raydet.pool.source import PoolSource
from raydet.records import PseudoBoxes, TeacherRef, Weights
from raydet.registry import AnnotatorFactory
from raydet.text import percent
from raydet.train.checkpoint import open_checkpoint
from raydet.train.rundir import RunFolder
from raydet.vision.digests import digest
from raydet.vision.weights import to_arrays, weights_of

POOL = {"labels__source": "pool", "cluster__backend": "ray"}
IMAGES = 48  # per version: divides evenly over 1..3 actors in calls of 4


class FreeSource:
    """Labels at no cost: what was said once is handed out as if each new teacher had said it."""

    def __init__(self, labels: Sequence[PseudoBoxes]) -> None:
        self._labels = {label.image_id: label for label in labels}
        self._refs: dict[int, TeacherRef] = {}

    def publish(self, ref: TeacherRef, weights: Weights) -> None:
        self._refs[ref.version] = ref

    def take(self, image_ids: Sequence[str], version: int) -> list[PseudoBoxes]:
        return [dataclasses.replace(self._labels[i], teacher=self._refs[version]) for i in image_ids]

    def stats(self) -> dict[str, float]:
        return {}

    def rewind(self, version: int) -> None: ...
    def request(self, image_ids: Sequence[str], version: int) -> None: ...
    def retire(self, version: int) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


@contextmanager
def pool(config: DetectionConfig) -> Iterator[ActorHandle]:
    """A broker with its teachers, all started."""
    folder = RunFolder(config.run.dir)
    shutil.rmtree(folder.path, ignore_errors=True)
    BOXES.prepare(config.data, folder.data)
    broker = start_broker(config.pool, AnnotatorFactory(config, str(folder.data), "cpu"), folder.labels)
    resize(broker, config.pool.actors)
    try:
        yield broker
    finally:
        stop_broker(broker)


def resize(broker: ActorHandle, actors: int) -> None:
    ray.get(broker.resize.remote(actors))
    while None in (pids := ray.get(broker.teachers.remote())).values() or len(pids) != actors:
        time.sleep(0.2)


def student_weights(fork: Path) -> Weights:
    return open_checkpoint(fork).tensors("student")


def publish_part(options: argparse.Namespace, fork: Path) -> None:
    config = base_config(options, "publish", **POOL, labels__lookahead=1)
    small = student_weights(fork)
    model = torch.nn.ParameterDict({name.replace(".", "/"): value for name, value in small.items()})
    # ResNet-50-FPN with IL-net's branch has 42 M float32 numbers
    large = torch.nn.ParameterDict({f"w{i}": torch.randn(1_000_000) for i in range(42)})
    print("\n### publish: one teacher\n")
    print("| detector | MB | what | CPU ms in the trainer | wall ms |\n|---|---|---|---|---|")
    version = 0
    with pool(config) as broker:
        ray.get(broker.rewind.remote(1, 0))
        for name, module, rounds in (("small_gn", model, 30), ("ResNet-50 size", large, 8)):
            clocks = {part: Clock() for part in ("snapshot", "digest", "send", "until the broker has it")}
            before = cpu_by_role()
            for _ in range(rounds):
                version += 1
                weights = clocks["snapshot"].measure(lambda m=module: weights_of(m))
                key = (version, clocks["digest"].measure(lambda w=weights: digest(w)))
                # what PoolSource.publish does on rank 0; the rest is waiting, which the trainer does not do
                sent = clocks["send"].measure(lambda k=key, w=weights: broker.publish.remote(1, *k, to_arrays(w)))
                clocks["until the broker has it"].measure(lambda s=sent: ray.get(s))
                ray.get(broker.retire.remote(1, version + 1))
            broker_ms = 1e3 * (cpu_by_role()["broker"] - before["broker"]) / rounds
            megabytes = f"{sum(array.nbytes for array in weights.values()) / 1e6:.1f}"
            for part, clock in clocks.items():
                print(f"| {name} | {megabytes} | {part} | {spread(clock.cpu, 1e3, 2)} | {spread(clock.wall, 1e3)} |")
            print(f"| {name} | {megabytes} | in the broker, per version | {broker_ms:.1f} | |")


def trainer_part(options: argparse.Namespace, fork: Path) -> None:
    burn_in = open_checkpoint(fork).step
    same = {"method__burn_in_steps": burn_in, "labels__lookahead": 4}
    inline = SteppedTrainer(base_config(options, "inline", **same), fork=fork)
    config = base_config(options, "pool", **same, **POOL)
    factory = AnnotatorFactory(config, str(RunFolder(inline.trainer.config.run.dir).data), "cpu")
    annotator, weights = factory(), student_weights(fork)
    annotator.load(TeacherRef(burn_in, digest(weights)), weights)
    data = BOXES.open(RunFolder(inline.trainer.config.run.dir).data)
    labels = annotator.label([data.unlabeled.id_at(i) for i in range(len(data.unlabeled))])
    free = SteppedTrainer(base_config(options, "free", **same), fork=fork, make_source=lambda *_: FreeSource(labels))
    with pool(config) as broker:
        pooled = SteppedTrainer(config, fork=fork, make_source=lambda c, f, g, a: PoolSource(broker, rank=0, attempt=a))
        clocks = in_turn({"inline": inline, "pool": pooled, "free": free}, options.rounds, 6)
        for trainer in (inline, pooled, free):
            trainer.end()
    print(
        "\n### trainer: one mutual step, lookahead 4, publish_every 1\n\n| labels | CPU ms in the trainer |\n|---|---|"
    )
    for name, clock in clocks.items():
        print(f"| {name} | {spread(clock.cpu, 1e3)} |")
    print(
        "\n| ratio of CPU time | of the totals | per round: median (quartiles) | error of the mean |\n|---|---|---|---|"
    )
    for a, b in (("inline", "free"), ("pool", "free"), ("pool", "inline")):
        print(f"| {a} / {b} | {ratio(clocks[a], clocks[b])} | {error_of_mean(clocks[a], clocks[b]):.3f} |")


def labels_part(options: argparse.Namespace, fork: Path) -> None:
    config = base_config(options, "labels", **POOL, labels__lookahead=1)
    weights = student_weights(fork)
    name = digest(weights)
    wall: dict[int, list[float]] = {n: [] for n in range(4)}  # 0: the bare loop
    cpu: dict[int, list[float]] = {n: [] for n in range(4)}
    broker_cpu: list[float] = []
    with pool(config) as broker:
        folder = RunFolder(config.run.dir)
        images = BOXES.open(folder.data).unlabeled
        ids = [images.id_at(i) for i in range(min(IMAGES, len(images)))]
        bare = AnnotatorFactory(config, str(folder.data), "cpu")()
        source = PoolSource(broker, rank=0, attempt=1)
        source.rewind(0)
        version = 0
        for number in range(options.label_rounds):
            for actors in (0, 1, 2, 3) if number % 2 == 0 else (3, 2, 1, 0):
                if actors:
                    resize(broker, actors)
                for is_counted in (False, True):  # the first one warms newcomers up
                    version += 1
                    ref, before, clock = TeacherRef(version, name), cpu_by_role(), Clock()
                    if actors:
                        source.publish(ref, weights)
                        clock.measure(lambda v=version: (source.request(ids, v), source.take(ids, v)))
                        after = cpu_by_role()
                        used = after["teacher"] - before["teacher"]
                    else:
                        clock.measure(lambda r=ref: (bare.load(r, weights), bare.label(ids)))
                        used = clock.cpu[0]
                    source.retire(version + 1)
                    if is_counted:
                        wall[actors].append(len(ids) / clock.wall[0])
                        cpu[actors].append(used / len(ids))
                        if actors:
                            broker_cpu.append((after["broker"] - before["broker"]) / len(ids))
    print(f"\n### labels: {len(ids)} images per teacher version, loading it included\n")
    print(
        "| annotators | labels per s (wall) | CPU ms per label | CPU over the bare loop, per round |\n|---|---|---|---|"
    )
    for actors in range(4):
        relative = [a / b for a, b in zip(cpu[actors], cpu[0], strict=True)]
        title = f"pool of {actors}" if actors else "bare loop"
        print(f"| {title} | {spread(wall[actors])} | {spread(cpu[actors], 1e3)} | {spread(relative, digits=2)} |")
    print(f"\nbroker: {1e3 * statistics.mean(broker_cpu):.2f} CPU ms per label")


def wait_part(options: argparse.Namespace, fork: Path) -> None:
    burn_in = open_checkpoint(fork).step
    print("\n### wait: the trainer alone with its pool\n")
    print("| actors | A | step: CPU ms | step: wall ms | label: CPU ms | actors >= | waited | an empty call |")
    print("|---|---|---|---|---|---|---|---|")
    for actors, lookahead in options.pools * options.wait_rounds:
        keys = {"method__burn_in_steps": burn_in, "labels__lookahead": lookahead, "pool__actors": actors}
        config = base_config(options, "wait", **keys, **POOL, log__every=1, data__loader_threads=options.loader_threads)
        with pool(config) as broker:
            trainer = SteppedTrainer(
                config, fork=fork, make_source=lambda c, f, g, a: PoolSource(broker, rank=0, attempt=a)
            )
            source = trainer.trainer.source
            for _ in range(lookahead + 4):
                trainer()
            waited, cpu = source.stats()["labels/take_wait_s"], cpu_by_role()["teacher"]
            clock = Clock()
            empty = Clock()
            for _ in range(options.wait_steps):
                clock.measure(trainer)
                empty.measure(lambda b=broker: ray.get(b.stats.remote()))
            share = (source.stats()["labels/take_wait_s"] - waited) / sum(clock.wall)
            call_share = sum(empty.wall) / sum(clock.wall)
            label_s = (cpu_by_role()["teacher"] - cpu) / (options.wait_steps * config.optim.unlabeled_batch)
            trainer.end()
        rule = config.optim.unlabeled_batch * label_s / statistics.mean(clock.cpu)
        cells = (f"{1e3 * statistics.mean(clock.cpu):.0f}", spread(clock.wall, 1e3, 0), f"{1e3 * label_s:.1f}")
        shares = f"{percent(share)} % | {percent(call_share)} %"
        print(f"| {actors} | {lookahead} | {' | '.join(cells)} | {rule:.2f} | {shares} |", flush=True)


def main() -> None:
    parts = {"publish": publish_part, "trainer": trainer_part, "labels": labels_part, "wait": wait_part}
    parser = arguments(__doc__)
    parser.add_argument("--parts", nargs="+", choices=tuple(parts), default=list(parts))
    parser.add_argument("--rounds", type=int, default=40, help="part trainer")
    parser.add_argument("--label-rounds", type=int, default=6)
    parser.add_argument("--wait-steps", type=int, default=30)
    parser.add_argument("--wait-rounds", type=int, default=2)
    parser.add_argument("--loader-threads", type=int, default=0, help="part wait")
    parser.add_argument("--pools", type=json.loads, default=[[1, 2], [1, 8], [2, 8]], help="[[actors, lookahead], ...]")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fork = burned_in(options)
    print(machine(), f"{options.threads} torch thread(s) per process", sep=", ", flush=True)
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        for part in options.parts:
            parts[part](options, fork)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
