"""What the benchmarks share: the configuration they run on, clocks, and loops that can be run one step at a time."""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import BOXES
from raydet.group import Group
from raydet.registry import build_method, family_of
from raydet.settings import load, resolve
from raydet.train.checkpoint import open_checkpoint
from raydet.train.journal import Journal
from raydet.train.launch import launch
from raydet.train.loop import Trainer
from raydet.train.rundir import RunFolder
from raydet.train.worker import SourceFactory, local_source

CHECKOUT = Path(__file__).resolve().parents[1]
CONFIG = CHECKOUT / "benchmarks" / "bccd_small.yaml"
NEVER = 1_000_000_000  # no checkpoint, no evaluation while something is measured
SHAPES = {"path": "shapes", "shapes": {"num_images": 200, "height": 240, "width": 320}}


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """The options all CPU benchmarks have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("bccd", "shapes"), default="bccd", help="shapes: generated, needs no files")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="run folders and the burn-in")
    parser.add_argument("--burn-in", type=int, default=300, help="steps of the burn-in that is trained where missing")
    parser.add_argument("--fork-from", type=Path, help="checkpoint at a burn-in's end of the same configuration")
    parser.add_argument(
        "--set", nargs="*", default=[], dest="overrides", metavar="KEY=VALUE", help="of bccd_small.yaml; give --out too"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads of the measured process")
    return parser


def base_config(options: argparse.Namespace, name: str, **dotted: object) -> DetectionConfig:
    """The configuration of bccd_small.yaml in a run folder OUT/name; keys with `__` for dots override it.

    Exits with a message where the real data are not there.
    """
    root = Path(os.environ.setdefault("RAYDET_DATA", str(CHECKOUT.parent / "shared" / "data")))
    if options.data == "bccd" and not (root / "bccd").is_dir():
        raise SystemExit(
            f"skipped: BCCD is not at {root / 'bccd'}. Set RAYDET_DATA to the folder that holds it, or give "
            f"--data shapes for generated images of the same size (other figures: do not compare them)"
        )
    keys: dict[str, object] = {
        "run.dir": str(options.out / options.data / name),
        "data.val": None,
        "data.test": None,
        "data.loader_threads": 0,
        "cluster.cpus_per_worker": float(options.threads),
        "checkpoint.every": NEVER,
        "eval.every": NEVER,
        "optim.steps": NEVER,
        "optim.precision": "fp32",
    }
    if options.data == "shapes":
        keys["data.labeled"] = SHAPES
    keys |= {key.replace("__", "."): value for key, value in dotted.items()}
    return resolve(load(CONFIG, options.overrides).model_dump(mode="json"), keys)


def burned_in(options: argparse.Namespace) -> Path:
    """Return a checkpoint at a burn-in's end; train it where it is missing. Its pseudo-labels are real ones."""
    if options.fork_from is not None:
        return options.fork_from.resolve()
    folder = RunFolder(options.out / options.data / f"burn-in-{options.burn_in}")
    found = folder.checkpoints / f"step_{options.burn_in:08d}"
    if not found.is_dir():
        launch(
            base_config(
                options,
                folder.path.name,
                method__burn_in_steps=options.burn_in,
                optim__steps=options.burn_in + 1,
                data__loader_threads=2,
            )
        )
    return found.resolve()


@dataclass
class Clock:
    """CPU and wall seconds of repeated work in this process, all its threads together."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def measure(self, work: Callable[[], object]) -> Any:
        cpu, wall = time.process_time(), time.perf_counter()
        result = work()
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)
        return result


class _PausingJournal(Journal):
    """Hands the thread over at the end of every step."""

    turn: SteppedTrainer

    def step(self, *args: Any, **kwargs: Any) -> None:
        super().step(*args, **kwargs)
        self.turn.pause()


class _Stop(BaseException):
    pass


class SteppedTrainer:
    """raydet's own `Trainer.run()` in a thread of its own; each call lets it do exactly one step.

    From the end of one step's log to the end of the next one's: everything the loop does is inside. Only one thread
    runs at a time, so that the process's CPU time between two calls is this step's.
    """

    def __init__(
        self,
        config: DetectionConfig,
        *,
        fork: Path | None = None,
        make_source: SourceFactory = local_source,
        device: str = "cpu",
    ) -> None:
        folder, group = RunFolder(config.run.dir), Group(device=torch.device(device))
        if folder.config_json.exists():
            shutil.rmtree(folder.path)  # an earlier benchmark
        folder.prepare(config, resume=False)
        data = BOXES.prepare(config.data, folder.data)
        method = build_method(config)
        family = family_of(config).bind(data, method, group)
        journal = _PausingJournal(config, family, method, group)
        journal.turn = self
        source = make_source(config, family, group, folder.next_attempt())
        self.trainer = Trainer(config, family, method, data, source, group, journal)
        checkpoint = open_checkpoint(fork) if fork else None
        journal.start(checkpoint.step if checkpoint else 0, attempt=1, num_params=0)
        self.trainer.start_from(None, checkpoint)
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._ends = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __call__(self) -> None:
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error

    def pause(self) -> None:
        """Called by the loop."""
        self._done.release()
        self._go.acquire()
        if self._ends:
            raise _Stop

    def end(self) -> None:
        """Leave the loop without its last checkpoint and evaluation."""
        self._ends = True
        self._go.release()
        self._thread.join()

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self._ends:
                self.trainer.run()
        except _Stop:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._done.release()


def in_turn(variants: Mapping[str, Callable[[], object]], rounds: int, warm_up: int, seed: int = 0) -> dict[str, Clock]:
    """Run every variant once per round, in an order drawn each time; the first `warm_up` rounds do not count."""
    clocks = {name: Clock() for name in variants}
    draw = random.Random(seed)
    for number in range(warm_up + rounds):
        for name in draw.sample(list(variants), len(variants)):
            (clocks[name] if number >= warm_up else Clock()).measure(variants[name])
    return clocks


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return low, middle, high


def spread(values: list[float], scale: float = 1.0, digits: int = 1) -> str:
    """Median with the quartiles."""
    low, middle, high = (scale * value for value in quartiles(values))
    return f"{middle:.{digits}f} ({low:.{digits}f} .. {high:.{digits}f})"


def ratio(over: Clock, under: Clock) -> str:
    """CPU time of one variant over another: of the totals, then median and quartiles of the ratios per round."""
    each = [a / b for a, b in zip(over.cpu, under.cpu, strict=True)]
    return f"{sum(over.cpu) / sum(under.cpu):.3f} | {spread(each, digits=3)}"


def error_of_mean(over: Clock, under: Clock) -> float:
    """Standard error of the mean of the ratios per round."""
    each = [a / b for a, b in zip(over.cpu, under.cpu, strict=True)]
    return statistics.stdev(each) / len(each) ** 0.5


def machine() -> str:
    """One line about what this ran on."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=CHECKOUT, capture_output=True, text=True)
    load_1, _, load_15 = os.getloadavg()
    return (
        f"{os.cpu_count()} cores {names[0] if names else platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, commit {commit.stdout.strip() or 'unknown'}, load average {load_1:.1f} (1 min) "
        f"{load_15:.1f} (15 min)"
    )
