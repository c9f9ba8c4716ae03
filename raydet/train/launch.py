"""Starting a run: check, prepare the data once, train in this process or on Ray, show what happens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from raydet import __version__
from raydet.cluster.address import check_answers
from raydet.cluster.capacity import check_holds, this_machine
from raydet.cluster.needs import Claim
from raydet.config.backbone import weights_path
from raydet.config.base import Section
from raydet.config.paths import check_lasts
from raydet.config.run import RunConfig
from raydet.contract import Teacher, sizes_of
from raydet.data.prepared import PreparedSets
from raydet.errors import ConfigError, DataError, RunError, RunStopped, StorageError, UserError
from raydet.group import Group
from raydet.learning_rate import base_lr, images_per_step
from raydet.metrics import read_metrics
from raydet.precision import NAMES, settled_dtype
from raydet.registry import build_method, family_of
from raydet.text import plural
from raydet.train.checkpoint import begun_with, latest_checkpoint, steps_of
from raydet.train.going_back import Start, check_labels, check_start, going_back
from raydet.train.progress import ProgressView
from raydet.train.rundir import RunFolder
from raydet.train.stop import sigterm_asks
from raydet.train.worker import check_start_of_fork, local_source, train_rank

MOSTLY = 0.5  # share of its start from which on an average is said to be too slow for its run


def launch(config: RunConfig, *, resume: bool = False, start: Start = None) -> RunFolder:
    """Train to the end and return the run's folder. Raises UserError for what the user can mend, RunStopped where
    somebody asked the run to stop and it did, and RunError where it cannot go on.

    `start`, with `resume`: the step to go back to, or "healthy" for the newest checkpoint from before a divergence.
    """
    check_lasts(config.run.dir, "run.dir")
    config = with_absolute_paths(config)
    folder = RunFolder(config.run.dir)
    if config.cluster.backend == "ray":
        check_answers(config.cluster)  # before anything is read or written
    with folder.lock():
        folder.check(config, resume=resume)
        back = check_start(folder, start) if resume else None
        if back is not None:
            check_labels(config, folder, back)
        if not resume:
            folder.split.unlink(missing_ok=True)  # left by a start that was killed
        family = family_of(config)
        data = _open_again(config, folder) if resume else family.prepare(config, folder.data)
        if found := _leave_out_damaged(config, folder) if resume else 0:
            data = family.open(folder.data)
        if config.uses_labels and data.unlabeled is None:
            ways = ", ".join(f"data.{key}" for key in config.data.drawn_by)
            raise DataError(
                f"method.name={config.method.name} needs unlabelled images, but the "
                f"{plural(len(data.labeled), 'image is', 'images are')} labelled; "
                f"leave some of them unlabelled ({ways}), or set data.unlabeled"
            )
        family.check(config, data)
        if resume and back is None and _is_finished(config, folder):
            print(f"{folder.path}: finished at step {config.last_step}{config.to_train_on}", flush=True)
            return folder
        if not resume:
            check_model(config, len(data.class_names))
        said = [
            describe(config, data),
            *(f"  warning: {text}" for text in _crowded(config)),
            *(f"  changed: {line}" for line in folder.changes(config)),
        ]
        if found:
            said.append(
                f"  warning: {plural(found, 'image cannot be read and is', 'images cannot be read and are')} left "
                f"out; {folder.data / 'skipped.jsonl'} lists them"
            )
        if resume and folder.written_by() not in (None, __version__):
            said.append(f"  note: so far the run was trained by raydet {folder.written_by()}, this is {__version__}")
        with going_back(folder, back) as where:
            folder.prepare(config, resume=resume)  # last: a run whose data is refused has not begun
            print("\n".join([*said, *([f"  {where}"] if where else [])]), flush=True)
            with _saying_what_is_kept(folder) if resume else _beginning(folder):
                _run(config, folder)
        _check_reached(config, folder)
    return folder


def _run(config: RunConfig, folder: RunFolder) -> None:
    """Train, in this process or on Ray, while the terminal shows how it goes."""
    with ProgressView(folder.path, config), sigterm_asks(folder.stop):
        if config.cluster.backend == "ray":
            from raydet.train.on_ray import train_on_ray  # a process run needs no Ray

            train_on_ray(config)
        else:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            train_rank(config, Group(device=device), local_source)


@contextmanager
def _beginning(folder: RunFolder) -> Iterator[None]:
    """Let there be no run where a first start is refused before it has begun to train, so that it can be repeated."""
    try:
        with _saying_what_is_kept(folder):
            yield
    except UserError:
        if all(record["kind"] != "start" for record in read_metrics(folder.metrics)):
            folder.take_back()
        raise


@contextmanager
def _saying_what_is_kept(folder: RunFolder) -> Iterator[None]:
    """Let the message about a disk that gave out say what there is to go on from."""
    try:
        yield
    except StorageError as error:
        steps = steps_of(folder.checkpoints)
        kept = f"The checkpoint of step {steps[-1]} is whole" if steps else "No checkpoint had been written"
        raise StorageError(f"{error}. {kept}: after that go on with --resume") from None


def _crowded(config: RunConfig) -> list[str]:
    """Return warnings where a run is more than this machine has. Raises ConfigError where it cannot hold it."""
    if config.cluster.backend == "ray":
        from raydet.train.on_ray import crowded

        return crowded(config)
    return check_holds([Claim("process", 1, {"CPU": config.cluster.cpus_per_worker})], this_machine(), {})


def _open_again(config: RunConfig, folder: RunFolder) -> PreparedSets[Any]:
    """Return a run's data, from where it lies now. Raises DataError unless it is what the run began with."""
    family = family_of(config)
    if folder.data_has_moved(config):
        return family.relocate(config, folder.data)
    data = family.open(folder.data)
    family.check_sources(config, data, "labeled", "unlabeled", "val")
    return data


def _leave_out_damaged(config: RunConfig, folder: RunFolder) -> int:
    """Look for damaged images where the run is to go on without them, and may have failed because of one."""
    if config.data.on_bad_image != "skip":
        return 0
    ends = [record["reason"] for record in read_metrics(folder.metrics) if record["kind"] == "end"]
    if folder.load_config().data.on_bad_image == "skip" and ends[-1:] != ["failed"]:
        return 0
    return family_of(config).images.leave_out_damaged(folder.data)


def check_model(config: RunConfig, num_classes: int) -> None:
    """Raise UserError where the model cannot be built, or has no start: a run is not begun that could not go on.

    Its memory is not taken, but files of weights are read, or downloaded, here first.
    """
    method = build_method(config)
    with torch.device("meta"):
        model = method.build_model(num_classes)
    if config.run.fork_from is None:
        method.start(model)
    else:  # its weights have had that start already
        check_start_of_fork(config)


def _is_finished(config: RunConfig, folder: RunFolder) -> bool:
    """Return whether a run has ended where it is to end, so that there is nothing to do, and to write.

    One whose last checkpoint was taken away, or is damaged, goes on from the one before. Raises ConfigError where a run
    has come further than it is to.
    """
    newest = steps_of(folder.checkpoints)[-1:]
    if newest and newest[0] > config.last_step:
        raise ConfigError(
            f"--resume: {folder.path} is at step {newest[0]}, beyond the {config.last_step} that it is to have now "
            f"(optim.steps, run.stop_at); raise them, or go back with --from"
        )
    step, reason = _last_end(folder)
    if reason != "done" or newest != [step] or step != config.last_step:
        return False
    usable = latest_checkpoint(folder.checkpoints)  # the last one may be damaged
    return usable is not None and usable.step == step


def _last_end(folder: RunFolder) -> tuple[int, str | None]:
    """Return step and reason of an end that is the last that a run has said; 0 and None where it is not."""
    ends = [record for record in read_metrics(folder.metrics)[-1:] if record["kind"] == "end"]
    return (int(ends[0]["step"]), str(ends[0]["reason"])) if ends else (0, None)


def _check_reached(config: RunConfig, folder: RunFolder) -> None:
    """Raise RunStopped where training ended early, as somebody asked it to, and RunError where nobody knows how it did.

    The journal's last line says it, not the newest checkpoint: a file system of several nodes may show a new folder
    late, but shows what a file holds to whoever opens it.
    """
    step, reason = _last_end(folder)
    if reason == "stopped":
        raise RunStopped(f"{folder.path} stopped as asked, with a checkpoint at step {step} of {config.last_step}")
    if step < config.last_step:
        raise RunError(
            f"{folder.path}: training returned, but the last line of {folder.metrics} does not say that it is done; "
            f"it may be seen late here: look again, or run it with --resume, which ends at once where all is done"
        )


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return the configuration as another process, with another working directory, understands it."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).absolute())

    paths = {"dir": absolute(config.run.dir), "fork_from": absolute(config.run.fork_from)}
    files = {key: weights_path(getattr(config.model, key)) for key in config.model.weight_keys}
    own = {key: str(file.absolute()) for key, file in files.items() if file is not None}
    update: dict[str, Section] = {"run": config.run.model_copy(update=paths)}
    update["model"] = config.model.model_copy(update=own) if own else config.model
    for name in ("data", "method"):
        section = getattr(config, name)
        if keys := section.paths():
            update[name] = section.model_copy(update={key: absolute(getattr(section, key)) for key in keys})
    return config.model_copy(update=update)


def describe(config: RunConfig, data: PreparedSets[Any]) -> str:
    """Say what is about to happen, in a few lines."""
    optim, uses_unlabeled = config.optim, config.uses_labels
    lr, images = base_lr(optim, uses_unlabeled=uses_unlabeled), images_per_step(optim, uses_unlabeled=uses_unlabeled)
    num_unlabeled = 0 if data.unlabeled is None else len(data.unlabeled)
    unlabeled = f", {num_unlabeled} unlabelled" if num_unlabeled else ""
    val = f", {len(data.val)} for validation" if data.val is not None else ""
    if data.val is not None and (judged := len(data.val.rows_to_judge(config.eval.max_images))) < len(data.val):
        val += f", {judged} of which are looked at"
    lines = [
        f"raydet: {config.method.name} in {RunFolder(config.run.dir).path}",
        f"  data: {family_of(config).describe(data)}{unlabeled}{val}",
        f"  steps: {_steps(config)}; batch {optim.labeled_batch} {config.data.kind_of_images}"
        + (f" + {optim.unlabeled_batch} unlabelled" if uses_unlabeled else ""),
        f"  learning rate: {lr:g}"
        + (f" = {optim.lr:g} x {images} / {optim.reference_batch} images" if optim.lr_scaling == "linear" else ""),
    ]
    method = build_method(config)
    lines += [f"  {note}" for note in method.notes(sizes_of(data))]
    if config.cluster.backend == "process":
        has_gpu = torch.cuda.is_available()
        device = torch.device("cuda" if has_gpu else "cpu")
        if config.cluster.gpus_per_worker and not has_gpu:
            lines.append(
                f"  warning: cluster.gpus_per_worker={config.cluster.gpus_per_worker:g}, but PyTorch sees no GPU"
            )
        dtype = settled_dtype(optim.precision, device, begun_with(RunFolder(config.run.dir).checkpoints))
        lines.append(f"  precision: {NAMES[dtype]} on {device}")
    warnings = [*data.warnings, *slow_average(method.teacher(), config.last_step)]
    return "\n".join(lines + [f"  warning: {text}" for text in warnings])


def _steps(config: RunConfig) -> str:
    """Return how many steps there are, and how many of them are burn-in."""
    last, burn_in = config.last_step, config.method.burn_in_steps
    return (
        f"{last}, all of them within the burn-in of {burn_in}"
        if burn_in > last
        else f"{last}, of which burn-in {burn_in}"
    )


def slow_average(teacher: Teacher | None, last_step: int) -> list[str]:
    """Warn where what is evaluated and kept in the end is mostly the student that the average began with."""
    if teacher is None or not teacher.judged or last_step <= teacher.first_step:
        return []
    share, steps = teacher.share_of_start(last_step), last_step - teacher.first_step
    if share <= MOSTLY:
        return []
    keep = max(math.floor(1000 * (1 - 5 / steps)) / 1000, 0)
    rate = f"method.ema_keep_rate={keep:g} or lower" if keep else "method.ema_keep_rate=0"
    return [
        f"the teacher, which is evaluated and kept, averages over {steps} steps so slowly that at the end {share:.0%} "
        f"of it is still the network of step {teacher.first_step}; {rate} looks back over a fifth of them"
    ]
