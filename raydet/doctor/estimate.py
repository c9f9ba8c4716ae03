"""What a run will need: places on the cluster, disk, main memory."""

from __future__ import annotations

import math
import os
import shutil
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from raydet.cluster.capacity import Machine, check_holds, own_bytes
from raydet.cluster.needs import Claim, Resources, arithmetic, check_fits, claims_of, idle_gpus, total
from raydet.config.run import RunConfig
from raydet.contract import DataSizes
from raydet.doctor.finding import Finding, fail, ok, warn
from raydet.errors import ConfigError
from raydet.labels.schedule import LabelSchedule
from raydet.registry import build_method
from raydet.text import plural, size
from raydet.train.rundir import RunFolder


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
    idle = idle_gpus(claims, nodes)
    return [ok("places", text), *(warn("GPUs", each, "0 is right where others are to have them") for each in idle)]


def judge_capacity(config: RunConfig, machine: Machine) -> Finding:
    """Judge whether this machine holds a run on a Ray of its own, or in one process."""
    claims = claims_of(config) or [Claim("process", 1, {"CPU": config.cluster.cpus_per_worker})]
    one = own_bytes()
    try:
        warnings = check_holds(claims, machine, {"worker": one, "teacher": one})
    except ConfigError as error:
        return fail("capacity", str(error), "raydet train would refuse this")
    if warnings:
        return warn("capacity", "; ".join(warnings), "lower cluster.workers, pool.actors or their shares")
    count = sum(claim.count for claim in claims)
    free = "" if machine.free_bytes is None else f" and {size(machine.free_bytes)} of free memory"
    return ok("capacity", f"{plural(machine.cores, 'core')}{free} for {count} of its processes")


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes at the end of a run."""

    parameters: int  # of the model, not bytes
    weights: int  # of models and optimiser, in all kept checkpoints
    learned: int  # what the method learns beside the weights, in all of them that have it
    labels: int

    @property
    def checkpoints(self) -> int:
        """Return what all kept checkpoints take."""
        return self.weights + self.learned


def disk_of(config: RunConfig, sizes: DataSizes) -> Disk:
    """Estimate what a run writes, at most, in float32: each checkpoint holds student, optimiser and, where the method
    has them, teacher, published teacher and learned state; most methods' is empty until the burn-in's end.

    Kept are `checkpoint.keep`, the ends of stages and the best one, and one more while it is written.
    """
    without = dict.fromkeys(config.model.weight_keys)
    method = build_method(config.model_copy(update={"model": config.model.model_copy(update=without)}))
    with torch.device("meta"):
        parameters = sum(p.numel() for p in method.build_model(sizes.classes).parameters())
    moments = {"sgd": 1, "lars": 1, "adamw": 2}[config.optim.name]
    copies = 1 + moments + (method.teacher() is not None) + config.uses_labels
    ends = {end for end in method.stage_ends if 0 < end < config.last_step}
    kept = config.checkpoint.keep + 2 + len(ends)
    after_burn_in = kept - (config.method.burn_in_steps in ends and not method.learns_in_burn_in)
    learned = method.state_bytes(sizes)
    labels = labels_kept(config, method.schedule(), sizes.unlabeled) * method.label_bytes(sizes.classes)
    return Disk(parameters, kept * copies * 4 * parameters, after_burn_in * learned, labels)


def labels_made(config: RunConfig, schedule: LabelSchedule, images: int) -> dict[int, int]:
    """Return how many labels each teacher version makes at most: one of each image that comes up in its time."""
    every, last_step = schedule.publish_every, config.last_step
    versions = schedule.publish_points(last_step)
    ends = [*versions[1:], last_step + schedule.lookahead]
    batch = config.optim.unlabeled_batch
    made = {first: min(images, (end - first) * batch) for first, end in zip(versions, ends, strict=False)}
    if every is None and versions:
        made[versions[-1]] = images  # a last stage of the run may have larger batches
    return made


def labels_left(config: RunConfig, schedule: LabelSchedule, images: int, step: int) -> int:
    """Return how many of these are still to be made, at most, when `step` steps are done."""
    batch = config.optim.unlabeled_batch
    made = labels_made(config, schedule, images)
    return sum(max(0, count - min(images, max(0, step - first) * batch)) for first, count in made.items())


def labels_kept(config: RunConfig, schedule: LabelSchedule, images: int) -> int:
    """Return how many labels the store holds at most.

    `labels.keep_versions` deletes at checkpoints, and nothing that one of the last two may need: what three intervals
    between checkpoints make is there besides.
    """
    made = labels_made(config, schedule, images)
    if config.labels.keep_versions is None or not made:
        return sum(made.values())
    versions, recent = list(made), 3 * config.checkpoint.every
    besides = max(bisect_left(versions, first + recent) - place for place, first in enumerate(versions))
    return sum(sorted(made.values())[-(config.labels.keep_versions + besides) :])


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes that a run has written so far."""

    checkpoints: int = 0
    labels: int = 0


NOTHING = Written()


def written_by(folder: RunFolder) -> Written:
    """Return what a started run holds already of what `disk_of` estimates; nothing where no run is started."""
    return Written(_bytes_in(folder.checkpoints), _bytes_in(folder.labels)) if folder.is_started else NOTHING


def _bytes_in(folder: Path) -> int:
    """Return the size of all files below a folder; one that a running run takes away meanwhile does not count."""
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                found += os.lstat(os.path.join(place, name)).st_size
    return found


def judge_disk(disk: Disk, run_dir: Path, written: Written = NOTHING) -> Finding:
    """Compare the estimate, less what is written already, with what is free where the run lives or will live."""
    place = next(folder for folder in [run_dir, *run_dir.parents] if folder.is_dir())
    free = shutil.disk_usage(place).free
    # Each by itself: checkpoints of an older setting, more than are kept now, make no room for labels.
    need = max(0, disk.checkpoints - written.checkpoints) + max(0, disk.labels - written.labels)
    already = written.checkpoints + written.labels
    there = f", {size(already)} are written already" if already else ""
    tables = f" ({size(disk.learned)} of it the state of the method)" if disk.learned else ""
    text = (
        f"{disk.parameters / 1e6:.1f} M parameters: {size(disk.checkpoints)} of checkpoints{tables} + "
        f"{size(disk.labels)} of labels at most{there}; {place} has {size(free)} free"
    )
    if need > free:
        advice = "lower checkpoint.keep, set labels.keep_versions, or take another run.dir"
        return fail("disk", text, advice)
    if need > 0.8 * free:
        return warn("disk", text, "labels.keep_versions bounds the labels")
    return ok("disk", text)


def judge_memory(each: int, ranks: int, have: int | None) -> Finding:
    """Judge main memory for what a method learns beside weights, `each` bytes in every rank; `have`: of the machine
    that all share, or None where they may be on several."""
    what = f"what the method learns beside weights takes {size(each)} in every rank (here {ranks})"
    text = f"{what}, beside network and images"
    if have is None:
        return ok("memory", text)
    text = f"{text}; this machine has {size(have)}"
    if ranks * each > have:
        return fail("memory", text, "lower cluster.workers, use a cluster, or fewer unlabelled images")
    if ranks * each > 0.8 * have:
        return warn("memory", text, "lower cluster.workers, or leave nothing else running")
    return ok("memory", text)
