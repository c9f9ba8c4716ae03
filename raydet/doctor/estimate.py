"""What a run will need: places on the cluster, disk, time."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from raydet.cluster.needs import Resources, arithmetic, check_fits, claims_of, total
from raydet.config.run import RunConfig
from raydet.doctor.finding import Finding, fail, ok, warn
from raydet.errors import ConfigError
from raydet.methods import build_method

LABEL_BYTES = {"il_net": 8_000, "unbiased_teacher": 2_000}  # a stored label, measured: benchmarks/store.md
GB = 1e9


def plan(config: RunConfig, nodes: Sequence[Resources], *, is_local: bool) -> list[Finding]:
    """Compare what the run claims with what there is.

    `is_local`: a Ray of the run's own on this machine, which declares as many CPUs as the run asks for.
    """
    claims = claims_of(config)
    if not claims:
        return [ok("places", "one process, which claims nothing of a cluster")]
    names = [name for name in total(claims) if not (is_local and name != "GPU")]
    lines = []
    for name in names:
        have = sum(node.get(name, 0.0) for node in nodes)
        lines.append(f"{arithmetic(claims, name)}; there is {have:g}")
    text = "; ".join(lines) or "a local Ray with as many CPUs as the run asks for"
    if is_local:
        nodes = [{**{name: math.inf for name in total(claims) if name != "GPU"}, **node} for node in nodes]
    try:
        check_fits(claims_of(config, least=True), nodes)
    except ConfigError as error:
        return [fail("places", str(error), "raydet train would refuse this")]
    try:
        check_fits(claims, nodes)
    except ConfigError:
        return [warn("places", f"{text}: enough to start, not for all", "the run grows when nodes join")]
    return [ok("places", text)]


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes at the end of a run."""

    parameters: int
    checkpoints: int
    labels: int


def disk_of(config: RunConfig, num_classes: int) -> Disk:
    """Estimate what a run writes, in float32: each checkpoint holds student, optimiser, teacher and published teacher.

    Kept are `checkpoint.keep`, the burn-in's end and the best one, and one more while it is written.
    """
    with torch.device("meta"):
        model = build_method(config.model_copy(update={"model": config.model.model_copy(update={"weights": None})}))
        parameters = sum(p.numel() for p in model.build_model(num_classes).parameters())
    moments = {"sgd": 1, "adamw": 2}[config.optim.name]
    copies = 1 + moments + (2 if config.uses_labels else 1)
    labels = 0
    if config.uses_labels:
        steps = max(0, config.last_step - config.method.burn_in_steps)
        if config.labels.keep_versions is not None:
            steps = min(steps, config.labels.keep_versions * config.labels.publish_every)
        labels = steps * config.optim.unlabeled_batch * LABEL_BYTES.get(config.method.name, 100 + 4 * num_classes)
    return Disk(parameters, (config.checkpoint.keep + 3) * copies * 4 * parameters, labels)


def judge_disk(disk: Disk, run_dir: Path) -> Finding:
    """Compare the estimate with what is free where the run will live."""
    place = next(folder for folder in [run_dir, *run_dir.parents] if folder.is_dir())
    free = shutil.disk_usage(place).free
    need = disk.checkpoints + disk.labels
    text = (
        f"{disk.parameters / 1e6:.1f} M parameters: {disk.checkpoints / GB:.2f} GB of checkpoints + "
        f"{disk.labels / GB:.2f} GB of labels at most; {place} has {free / GB:.1f} GB free"
    )
    if need > free:
        advice = "lower checkpoint.keep, set labels.keep_versions, or take another run.dir"
        return fail("disk", text, advice)
    if need > 0.8 * free:
        return warn("disk", text, "labels.keep_versions bounds the labels")
    return ok("disk", text)


def measure(config: RunConfig, *, burn_in: int = 2, mutual: int = 4) -> Finding:
    """Train a few steps of this very configuration, in this process and a temporary folder, and extrapolate.

    The first step of each phase is left out. Reads and checks the data as a run does, and writes what a run writes, a
    checkpoint at the burn-in's end and one at the end included; then removes it. Raises what a run would raise.
    """
    from raydet.metrics import read_metrics
    from raydet.tasks import task_of
    from raydet.train.group import Group
    from raydet.train.launch import local_source
    from raydet.train.rundir import RunFolder
    from raydet.train.worker import train_rank

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="raydet-doctor-") as folder:
        short = _short(config, Path(folder) / "run", burn_in, mutual)
        task_of(short).prepare(RunFolder(short.run.dir).data)
        train_rank(short, Group(device=device), local_source)
        lines = [line for line in read_metrics(RunFolder(short.run.dir).metrics) if line["kind"] == "step"]
    seconds = {line["step"]: float(line["step_s"]) for line in lines}
    alone = seconds[burn_in]
    taught = [seconds[step] for step in range(burn_in + 2, burn_in + mutual + 1)] if config.uses_labels else [alone]
    mean = sum(taught) / len(taught)
    split = config.method.burn_in_steps if config.uses_labels else 0
    minutes = round((split * alone + (config.last_step - split) * mean) / 60)
    return ok(
        "time",
        f"{alone:.2f} s per burn-in step, {mean:.2f} s per later step, with the whole batch and the teacher in one "
        f"process on {device.type}: {minutes // 60} h {minutes % 60:02} min for {config.last_step} steps without "
        f"evaluations; n workers share a batch, and a pool takes the teacher's part",
    )


def _short(config: RunConfig, run_dir: Path, burn_in: int, mutual: int) -> RunConfig:
    """Return the configuration with few steps, one process, labels made on the spot, and nothing evaluated."""
    update = {
        "run": config.run.model_copy(update={"dir": str(run_dir), "fork_from": None, "stop_at": None}),
        "data": config.data.model_copy(update={"val": None, "test": None}),
        "method": config.method.model_copy(update={"burn_in_steps": burn_in}),
        "optim": config.optim.model_copy(update={"steps": burn_in + mutual}),
        "labels": config.labels.model_copy(update={"source": "inline", "lookahead": 0}),
        "cluster": config.cluster.model_copy(update={"backend": "process", "workers": 1, "min_workers": None}),
        "log": config.log.model_copy(update={"every": 1, "tensorboard": False}),
    }
    return config.model_copy(update=update)
