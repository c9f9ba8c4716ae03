"""How long a run will take: a few of its steps, trained in a temporary folder."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raydet.config.run import RunConfig
from raydet.doctor.estimate import labels_left
from raydet.doctor.finding import Finding, ok, warn
from raydet.errors import CheckpointError
from raydet.metrics import read_metrics
from raydet.precision import NAMES, autocast_dtype, has_bf16_hardware
from raydet.registry import build_method, family_of
from raydet.settings import resolve
from raydet.text import duration, plural
from raydet.train.checkpoint import latest_checkpoint, open_checkpoint
from raydet.train.rundir import RunFolder

BURN_IN, LATER = 2, 4  # steps that are trained; the first of each stage is not counted
TOLERATED = 1.25  # times as long as in the other precision: four steps tell no more


def measure(config: RunConfig) -> Finding:
    """Train a few steps of this very configuration, in this process and a temporary folder, and extrapolate.

    Reads and checks the data as a run does, and writes what a run writes, a checkpoint at the burn-in's end and one at
    the end included; then removes it. Raises what a run would raise.
    """
    return next(measure_both(config))


def measure_both(config: RunConfig) -> Iterator[Finding]:
    """Yield what `measure` finds, and whether `optim.precision: auto` chose what is faster for this network."""
    lines, num_unlabeled = _train(config)
    yield ok("time", extrapolate(config, lines, num_unlabeled, _device().type))
    if config.optim.precision == "auto" and _device().type == "cpu" and has_bf16_hardware():
        chosen = NAMES[autocast_dtype("auto", _device())]
        other = {"bf16": "fp32", "fp32": "bf16"}[chosen]
        others, _ = _train(resolve(config.model_dump(mode="json"), {"optim.precision": other}))
        yield judge_precision(chosen, _seconds(lines), other, _seconds(others))


def judge_precision(chosen: str, seconds: float, other: str, its_seconds: float) -> Finding:
    """Say how long a step takes in the precision that `auto` chose, and in the other one."""
    text = f"a step takes {seconds:.2f} s in {chosen}, which auto chose here, and {its_seconds:.2f} s in {other}"
    if seconds <= TOLERATED * its_seconds:
        return ok("precision", text)
    return warn("precision", text, f"set optim.precision={other}, unless other programs disturbed this measurement")


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _train(config: RunConfig) -> tuple[list[dict[str, Any]], int]:
    """Return the log's lines of a few steps, and how many unlabelled images there are."""
    from raydet.group import Group
    from raydet.train.worker import local_source, train_rank

    with tempfile.TemporaryDirectory(prefix="raydet-doctor-") as folder:
        short = short_run(config, Path(folder) / "run")
        data = family_of(short).prepare(short, RunFolder(short.run.dir).data)
        family_of(config).check(config, data)
        train_rank(short, Group(device=_device()), local_source)
        lines = [line for line in read_metrics(RunFolder(short.run.dir).metrics) if line["kind"] == "step"]
        return lines, len(data.unlabeled or ())


def _seconds(lines: Sequence[Mapping[str, Any]]) -> float:
    """Return how long one of the last steps takes; the first of a stage sets things up."""
    rest = [float(line["step_s"]) for line in lines if line["step"] >= BURN_IN + 2]
    return sum(rest) / len(rest)


def short_run(config: RunConfig, run_dir: Path) -> RunConfig:
    """Return the configuration with few steps, one process, labels made on the spot, and nothing evaluated."""
    changes: dict[str, Any] = {"run.dir": str(run_dir), "run.fork_from": None, "run.stop_at": BURN_IN + LATER}
    unseen = {"val", "val_count", "test"} & set(type(config.data).model_fields)
    changes |= {"optim.steps": BURN_IN + LATER + 1} | dict.fromkeys([f"data.{key}" for key in unseen])
    changes |= {f"method.{key}": value for key, value in config.method.shortened(BURN_IN, LATER).items()}
    changes |= {"labels.source": "inline", "labels.lookahead": 0, "log.every": 1, "log.tensorboard": False}
    changes |= {"cluster.backend": "process", "cluster.workers": 1, "cluster.min_workers": None}
    return resolve(config.model_dump(mode="json"), changes, where="the measured steps")


def extrapolate(config: RunConfig, lines: Sequence[Mapping[str, Any]], num_unlabeled: int, device: str) -> str:
    """Say how long what is left of the run takes, from the log's line of each measured step."""
    method, by_step = build_method(config), {line["step"]: line for line in lines}
    first, rest = by_step[BURN_IN], [by_step[step] for step in range(BURN_IN + 2, BURN_IN + LATER + 1)]
    seconds, labelling = (sum(float(line[key]) for line in rest) / len(rest) for key in ("step_s", "label_wait_s"))
    stages = first.get("stage") != rest[-1].get("stage")
    end_of_first = min(config.method.burn_in_steps, config.last_step) if config.uses_labels or stages else 0
    done = beginning_of(config)
    start = min(done.step, config.last_step)
    num_first, num_rest = max(0, end_of_first - start), config.last_step - max(start, end_of_first)
    makes_labels = labels_left(config, method.schedule(), num_unlabeled, 0) > 0
    made = labels_left(config, method.schedule(), num_unlabeled, start)
    share = min(1.0, made / max(1, num_rest * config.optim.unlabeled_batch))
    total = num_first * float(first["step_s"]) + num_rest * (seconds - (1 - share) * labelling)
    text = f"{seconds:.2f} s per {rest[-1].get('stage', 'later' if makes_labels else 'training')} step"
    if makes_labels or stages:
        text = f"{float(first['step_s']):.2f} s per {first.get('stage', 'burn-in')} step, {text}"
    if makes_labels and share < 1 and start < config.last_step:
        text += f" ({labelling:.2f} s of it for labels, which {share:.0%} of the images need)"
    last = method.stage_name(config.last_step - 1)
    if last not in (None, first.get("stage"), rest[-1].get("stage")):
        text += f", {last} taken to be as slow"
    text += f", with the whole batch and the teacher in one process on {device}"
    if start == config.last_step:
        at_its_end = f"{done.what} is at step {done.step}, and the run ends at step {start}"
        return f"{text}. Nothing is left to train: {at_its_end}{config.to_train_on}"
    steps = plural(config.last_step - start, "step")
    steps += f" from step {start} on, where {done.goes_on}," if start else ""
    return (
        f"{text}: {duration(total)} for {steps} without evaluations; n workers share a batch, and a pool takes the "
        f"teacher's part"
    )


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where training begins, or goes on."""

    step: int = 0
    what: str = "the run"  # that is at this step
    goes_on: str = "it begins"


def beginning_of(config: RunConfig) -> Beginning:
    """Return where a run goes on that is to be resumed, else where a forked one begins, as its checkpoint says.

    Of checkpoints that are not here, or are damaged, none counts, as `--resume` passes over them, but the name of the
    one to fork from does. That they are is not this finding's matter.
    """
    folder = RunFolder(config.run.dir)
    if folder.is_started:
        with suppress(CheckpointError, OSError, KeyError):
            if (newest := latest_checkpoint(folder.checkpoints)) is not None:
                return Beginning(newest.step, "the run in run.dir", "--resume goes on with the run in run.dir")
    if config.run.fork_from is None:
        return Beginning()
    return Beginning(_step_of(Path(config.run.fork_from)), "run.fork_from", "run.fork_from begins")


def _step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint, as it says, else as its folder is called; 0 where neither does."""
    try:
        return open_checkpoint(checkpoint).step
    except (CheckpointError, OSError, KeyError):
        named = re.fullmatch(r"step_(\d+)", checkpoint.name)
        return int(named[1]) if named else 0
