"""Where one label broker saturates, and what it keeps in memory. No GPU, no detector: work is replaced by sleeps.

    python benchmarks/broker_scale.py --parts alone          # the broker's own code, in one process, without Ray
    python benchmarks/broker_scale.py --parts ray            # the broker as the Ray actor that it is, at several loads
    python benchmarks/broker_scale.py --parts calibrate      # real teacher processes next to simulated ones
    python benchmarks/broker_scale.py --parts memory         # a million labels, retired and not
    python benchmarks/broker_scale.py --parts shards         # one broker against two, each with half of the trainers

Real: LabelBroker with its desk, store (on disk), teacher bookkeeping, and in the parts with Ray every call between
processes. Simulated: a trainer is a coroutine that makes the calls of `PoolSource` in the order of the training loop
and sleeps for the rest of the step; a teacher is a coroutine that sleeps for each image and answers with a table of a
real label's size. All ranks of a client process wait for each other at the end of each step, as a reduction makes them
do: that is why their calls arrive in bursts. Many of them share a process (256 + 128 do not fit this machine).
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from broker_simulation import BOXES, InProcess, Load, SimulatedBroker, SleepingAnnotator, TeacherHost, Trainers, where
from common import machine
from processes import TICK_S

from raydet.pool import broker as broker_module
from raydet.pool.launch import start_broker


@dataclass(frozen=True)
class Used:
    """CPU seconds of a process, in all and by thread, and its memory."""

    cpu_s: float
    threads: dict[str, float]
    anon_mb: float
    file_mb: float


def look(pid: int) -> Used:
    threads = {task.name: stat_cpu(task / "stat") for task in Path(f"/proc/{pid}/task").iterdir()}
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    anon, file = (int(status[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return Used(stat_cpu(Path(f"/proc/{pid}/stat")), threads, anon, file)


def stat_cpu(file: Path) -> float:
    fields = file.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


# -- the parts


def alone(options: argparse.Namespace) -> None:
    print("\n### alone: all in one process, no Ray; CPU of the whole process, simulation included\n")
    print("| trainers | teachers | images per take | labels come | CPU us per label |\n|---|---|---|---|---|")
    shapes = [(1, 1, 4), (16, 8, 4), (64, 32, 4), (256, 128, 4), (256, 128, 16)]
    for label_s, when in ((0.0, "in time"), (0.2, "late: all wait for the teachers")):
        for trainers, teachers, images in shapes if label_s == 0 else shapes[1:4]:
            load = Load(trainers, teachers, images, step_s=0.0, label_s=label_s, method=options.method)
            steps = max(8, options.labels // (trainers * images)) if label_s == 0 else 8
            cpu = [in_process(load, steps, options.out / "alone")[0] for _ in range(options.rounds)]
            each = spread([value / (steps * trainers * images) for value in cpu], 1e6)
            print(f"| {trainers} | {teachers} | {images} | {when} | {each} |", flush=True)
    if options.profile:
        for label_s in (0.0, 0.2):
            load = Load(step_s=0.0, label_s=label_s, method=options.method)
            print(in_process(load, 12, options.out / "alone", profiles=True)[1])


def in_process(load: Load, steps: int, folder: Path, profiles: bool = False) -> tuple[float, str]:
    """Run broker, trainers and teachers on one event loop. Returns CPU seconds and a profile."""
    shutil.rmtree(folder, ignore_errors=True)
    real, broker_module.ray = broker_module.ray, SimpleNamespace(put=lambda value: value)  # type: ignore[assignment]
    profile = cProfile.Profile()

    async def run() -> float:
        broker = SimulatedBroker(load, str(folder), [InProcess(TeacherHost(load))])
        trainers = Trainers(load, InProcess(broker), range(load.trainers))
        await trainers.run(0, 2)
        cpu = time.process_time()
        if profiles:
            profile.enable()
        await trainers.run(2, 2 + steps)
        profile.disable()
        return time.process_time() - cpu

    try:
        return asyncio.run(run()), where(profile) if profiles else ""
    finally:
        broker_module.ray = real
        shutil.rmtree(folder, ignore_errors=True)


def remote_broker(load: Load, folder: Path, hosts: int) -> Any:
    shutil.rmtree(folder, ignore_errors=True)
    teachers = [ray.remote(TeacherHost).options(num_cpus=0, max_concurrency=1000).remote(load) for _ in range(hosts)]
    return ray.remote(SimulatedBroker).options(num_cpus=0).remote(load, str(folder), teachers)


def clients(load: Load, broker: Any, number: int) -> list[Any]:
    """`number` processes, each with some of the ranks."""
    shares = [range(k * load.trainers // number, (k + 1) * load.trainers // number) for k in range(number)]
    return [ray.remote(Trainers).options(num_cpus=0).remote(load, broker, share) for share in shares]


def drive(brokers: list[Any], groups: list[list[Any]], load: Load, steps: int) -> Iterator[str]:
    """Run all client groups at once; yield the cells of a table row."""
    processes = [process for group in groups for process in group]
    ray.get([process.run.remote(0, 4) for process in processes])  # warm up
    pids = ray.get([broker.pid.remote() for broker in brokers])
    before, began = [look(pid) for pid in pids], time.perf_counter()
    waits = [wait for found in ray.get([p.run.remote(4, 4 + steps) for p in processes]) for wait in found]
    wall, after = time.perf_counter() - began, [look(pid) for pid in pids]
    labels = steps * load.trainers * load.images * len(brokers)
    cpu = sum(b.cpu_s - a.cpu_s for a, b in zip(before, after, strict=True))
    thread = sum(
        max(seconds - a.threads.get(name, 0.0) for name, seconds in b.threads.items())
        for a, b in zip(before, after, strict=True)
    )
    low, high = (1e3 * value for value in (statistics.median(waits), statistics.quantiles(waits, n=100)[98]))
    yield f"{labels / wall:.0f}"
    yield f"{low:.0f} / {high:.0f}"
    yield f"{1e6 * cpu / labels:.0f}"
    yield f"{1e6 * thread / labels:.0f}"
    yield f"{100 * thread / wall / len(brokers):.0f} %"


HEAD = (
    "| {} | labels per s | take(): median / 99 % ms | CPU us per label | of its busiest thread | that thread is busy |"
)


def ray_part(options: argparse.Namespace) -> None:
    print("\n### ray: the broker as an actor; loads by the step's length\n")
    print(f"{options.images} images per trainer and step\n")
    print(HEAD.format("trainers | teachers | step s | asked for, labels per s") + "\n" + "|---" * 9 + "|")
    loads = [
        (16, 8, 0.5),
        (64, 32, 0.5),
        (128, 64, 0.5),
        (256, 128, 2.0),
        (256, 128, 1.0),
        (256, 128, 0.5),
        (256, 128, 0.0),
    ]
    for trainers, teachers, step_s in loads[-options.last :]:
        label_s = 0.04 if step_s else 0.0
        load = Load(trainers, teachers, options.images, step_s, label_s, options.method)
        for _ in range(options.rounds):
            broker = remote_broker(load, options.out / "ray", hosts=2)
            group = clients(load, broker, 2)
            asked = f"{trainers * load.images / step_s:.0f}" if step_s else "all it can"
            cells = drive([broker], [group], load, options.steps)
            print(f"| {trainers} | {teachers} | {step_s} | {asked} | {' | '.join(cells)} |", flush=True)
            if options.profile and step_s == 0.0:
                ray.get(broker.profile.remote(True))
                ray.get([client.run.remote(100, 100 + options.steps) for client in group])
                print(ray.get(broker.profile.remote(False)))
            end([broker, *group])


def calibrate(options: argparse.Namespace) -> None:
    print("\n### calibrate: 4 teachers, 8 trainers\n")
    print(HEAD.format("teachers are") + "\n" + "|---" * 6 + "|")
    load = Load(8, 4, step_s=0.25, label_s=0.02, method=options.method)
    for _ in range(options.rounds):
        for is_real in (True, False):
            if is_real:
                shutil.rmtree(options.out / "real", ignore_errors=True)
                broker = start_broker(load.pool(), lambda: SleepingAnnotator(load), options.out / "real")
                while None in ray.get(broker.teachers.remote()).values():
                    time.sleep(0.2)
                pid = ray.get(broker.__ray_call__.remote(lambda _: os.getpid()))
                measured = SimpleNamespace(pid=SimpleNamespace(remote=lambda pid=pid: ray.put(pid)))
            else:
                measured = broker = remote_broker(load, options.out / "simulated", hosts=2)
            group = clients(load, broker, 1)
            cells = drive([measured], [group], load, options.steps)
            print(f"| {'processes' if is_real else 'simulated'} | {' | '.join(cells)} |", flush=True)
            end([broker, *group])


def shards(options: argparse.Namespace) -> None:
    print("\n### shards: 256 trainers at once, by rank\n")
    print(HEAD.format("brokers") + "\n" + "|---" * 6 + "|")
    for _ in range(options.rounds):
        for number in (1, 2):
            load = Load(256 // number, 128 // number, step_s=0.0, label_s=0.0, method=options.method)
            brokers = [remote_broker(load, options.out / f"shard{k}", hosts=1) for k in range(number)]
            groups = [clients(load, broker, 2 // number) for broker in brokers]
            print(f"| {number} | {' | '.join(drive(brokers, groups, load, options.steps))} |", flush=True)
            end([*brokers, *(client for group in groups for client in group)])


def memory(options: argparse.Namespace) -> None:
    print("\n### memory: the broker's process, everything simulated in it; MB above the start\n")
    print("| method | retired | labels | anonymous MB | mapped files MB | kept at the end |\n|---|---|---|---|---|---|")
    for method, retires in (("unbiased_teacher", False), ("il_net", False), ("il_net", True)):
        # Large calls: what is kept per label is the same, and a million of them are made in minutes.
        load = Load(16, 8, 128, 0.0, 0.0, method, images_per_call=64, retires=retires)
        pid = os.fork()  # a fresh process each: memory that was once used is not given back
        if pid == 0:
            grow(load, options)
            os._exit(0)
        os.waitpid(pid, 0)


def grow(load: Load, options: argparse.Namespace) -> None:
    folder = options.out / "memory"
    shutil.rmtree(folder, ignore_errors=True)
    broker_module.ray = SimpleNamespace(put=lambda value: value)  # type: ignore[assignment]

    async def run() -> None:
        broker = SimulatedBroker(load, str(folder), [InProcess(TeacherHost(load))])
        trainers = Trainers(load, InProcess(broker), range(load.trainers))
        await trainers.run(0, 5)
        start, per_step, step = look(os.getpid()), load.trainers * load.images, 5
        for part in range(1, 5):
            last = 5 + part * options.memory_labels // (4 * per_step)
            while step < last:
                await trainers.run(step, min(last, step + 100))  # a checkpoint every 100 steps
                step = min(last, step + 100)
                await broker.flush(1, broker._incarnation, {}, 1.0)
            now, stats = look(os.getpid()), broker._stats()
            grown = f"{now.anon_mb - start.anon_mb:.0f} | {now.file_mb - start.file_mb:.0f}"
            kept = f"{stats['pool/ready']:.0f} labels"
            print(f"| {load.method} | {load.retires} | {(step - 5) * per_step} | {grown} | {kept} |", flush=True)

    asyncio.run(run())
    shutil.rmtree(folder, ignore_errors=True)


def end(actors: Sequence[Any]) -> None:
    for actor in actors:
        ray.kill(actor)


def spread(values: list[float], scale: float, digits: int = 0) -> str:
    """Median with the smallest and the largest."""
    low, middle, high = (scale * value for value in (min(values), statistics.median(values), max(values)))
    return f"{middle:.{digits}f} ({low:.{digits}f} .. {high:.{digits}f})"


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "alone": alone,
    "memory": memory,
    "ray": ray_part,
    "calibrate": calibrate,
    "shards": shards,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/broker"), help="label stores, deleted again")
    parser.add_argument("--method", choices=tuple(BOXES), default="il_net")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="measured steps of the parts with Ray")
    parser.add_argument("--labels", type=int, default=20_000, help="labels per measurement of part alone")
    parser.add_argument("--last", type=int, default=7, help="part ray: only so many of the heaviest loads")
    parser.add_argument("--images", type=int, default=4, help="part ray: per trainer and step")
    parser.add_argument("--memory-labels", type=int, default=1_000_000)
    parser.add_argument("--profile", action="store_true", help="parts alone and ray: where the broker's time goes")
    options = parser.parse_args()
    print(machine(), flush=True)
    for part in options.parts:
        if part in ("ray", "calibrate", "shards") and not ray.is_initialized():
            ray.init(
                address="local",
                num_cpus=8,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
            )
        PARTS[part](options)
    if ray.is_initialized():
        ray.shutdown()


if __name__ == "__main__":
    main()
