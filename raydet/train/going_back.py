"""Going back: from which checkpoint a run can go on once it has diverged, and going on from there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from raydet.config.run import RunConfig
from raydet.errors import CheckpointError, ConfigError, DivergedError, NonFiniteLossError, UserError
from raydet.files import move_folder
from raydet.labels.segment import list_segments
from raydet.learning_rate import base_lr
from raydet.metrics import read_metrics
from raydet.registry import build_method
from raydet.train.checkpoint import Checkpoint, folder_of, latest_checkpoint, open_checkpoint, set_aside, steps_of
from raydet.train.rundir import RunFolder

HEALTHY = "healthy"
DIVERGED = "diverged"  # the name of the alarm
_DIVERGENCES = (DivergedError.__name__, NonFiniteLossError.__name__)  # what the end of a run says that failed so
Start = int | str | None
"""Where to go on: a step, "healthy", or None for the newest checkpoint."""


def healthy_step(folder: RunFolder, bad: range = range(0)) -> int:
    """Return the newest step that a run can be expected to go on from, 0 for its beginning.

    A checkpoint is written before its own weights are tried: of steps that an alarm is about (those in the journal, and
    `bad`) the checkpoint's own mark says nothing.
    """
    alarms = [record for record in read_metrics(folder.metrics) if record["kind"] == "alarm" and "since" in record]
    suspects = [bad, *(range(record["since"], record["step"] + 1) for record in alarms)]
    healthy = steps_of(folder.checkpoints, healthy=True)
    return max((step for step in healthy if not any(step in each for each in suspects)), default=0)


def diverged_since(folder: RunFolder, newest: Checkpoint) -> int | None:
    """Return since which step the weights of a run's newest checkpoint are bad; None: they are not known to be.

    Its own mark says so, or an alarm of the divergence that the run failed with, which began before it: see
    `healthy_step`. An alarm alone does not, since a run may have recovered from it; nor does one that begins with these
    very weights, since what they give is seen anew at once.
    """
    if not newest.is_healthy:
        return int(newest.state["health"]["since"])
    records = read_metrics(folder.metrics) if folder.metrics.is_file() else []
    last = records[-1] if records else {}
    if last.get("kind") != "end" or last["reason"] != "failed":
        return None
    if not str(last.get("message")).startswith(_DIVERGENCES):  # it failed of something else
        return None
    alarms = [record for record in records if record["kind"] == "alarm" and "since" in record]
    return next((each["since"] for each in alarms if each["since"] < newest.step <= each["step"]), None)


def advice(config: RunConfig, folder: RunFolder, bad: range = range(0)) -> str:
    """Say how to go on after the weights of the steps `bad`, and of those in the journal, were found bad."""
    step = healthy_step(folder, bad)
    where = "the newest healthy checkpoint" if step else "the beginning: no checkpoint was written before"
    keys = " or ".join(config.method.lr_keys)
    lr = base_lr(config.optim, uses_unlabeled=config.uses_labels)
    return (
        f"go on with --resume --from {step} ({where}) and a lower {keys} (optim.lr is {config.optim.lr:g}"
        + ("" if lr == config.optim.lr else f", scaled to {lr:g}")
        + f"), or an optim.clip_norm{'' if config.optim.clip_norm is None else f' below {config.optim.clip_norm:g}'}"
    )


def check_start(folder: RunFolder, start: Start) -> int | None:
    """Return the step to go back to, None to go on from the newest checkpoint; changes nothing.

    Raises ConfigError where the newest checkpoint was written by a run that had diverged and nobody said to go on from
    it, and where there is no checkpoint of the step.
    """
    if start is None:
        _refuse_unhealthy(folder)
        return None
    if start == HEALTHY:
        step, unusable = healthy_step(folder), range(0)
        while step and (problem := _problem(folder, step)):
            print(f"raydet: warning: passed over: {problem}", flush=True)
            unusable = range(step, max(steps_of(folder.checkpoints)) + 1)
            step = healthy_step(folder, unusable)
        return step
    step = int(start)
    if step and (problem := _problem(folder, step)):
        there, healthy = steps_of(folder.checkpoints), steps_of(folder.checkpoints, healthy=True)
        listed = ", ".join(f"{each}{'' if each in healthy else ' (unhealthy)'}" for each in there) or "none"
        raise ConfigError(f"--from {step}: {problem}; there are checkpoints of steps: {listed}; 0 is the beginning")
    return step


def check_labels(config: RunConfig, folder: RunFolder, step: int) -> None:
    """Raise ConfigError where the labels that a run needs at `step`, of teachers that are gone, were deleted.

    With a lookahead these are of older teachers than the one that the checkpoint holds, and `labels.keep_versions`
    keeps what the last checkpoints need. Without it nothing is deleted.
    """
    if not config.uses_labels or config.labels.keep_versions is None:
        return
    schedule, stored = build_method(config).schedule(), [name.first for name in list_segments(folder.labels)]
    oldest, newest = schedule.version_for(step), schedule.version_for(step + config.labels.lookahead)
    if oldest is not None and oldest != newest and oldest < min(stored, default=step):
        raise ConfigError(
            f"--from {step}: the labels of teacher {oldest}, which step {step} needs, were deleted "
            f"(labels.keep_versions={config.labels.keep_versions}); the oldest that are kept are of teacher "
            f"{min(stored, default='none')}: go back to a later checkpoint, or to 0, the beginning"
        )


@contextmanager
def going_back(folder: RunFolder, step: int | None) -> Iterator[str | None]:
    """Move the checkpoints beyond `step` to RUN/abandoned and give what to say of it; what else is newer goes when
    training starts. Where it is refused before that, they are put back. None: do nothing."""
    if step is None:
        yield None
        return
    moved, begun = set_aside(folder.checkpoints, step, folder.abandoned), _written(folder)
    what = f"checkpoints of steps {', '.join(map(str, moved))} are now in {folder.abandoned}" if moved else "none newer"
    try:
        yield f"goes back to step {step}; {what}"
    except UserError:
        if _written(folder) == begun:  # the first that training does is to cut off what is newer
            for each in reversed(moved):
                move_folder(folder_of(folder.abandoned, each), folder_of(folder.checkpoints, each))
        raise


def _written(folder: RunFolder) -> tuple[int, int]:
    """Return what changes wherever something is written to the journal."""
    if not folder.metrics.is_file():
        return 0, 0
    found = folder.metrics.stat()
    return found.st_size, found.st_mtime_ns


def _problem(folder: RunFolder, step: int) -> str:
    try:
        open_checkpoint(folder_of(folder.checkpoints, step))
    except CheckpointError as error:
        return str(error)
    return ""


def _refuse_unhealthy(folder: RunFolder) -> None:
    try:
        newest = latest_checkpoint(folder.checkpoints)
    except CheckpointError:
        return  # said with more detail by what opens it
    if newest is None or (since := diverged_since(folder, newest)) is None:
        return
    back, loss = healthy_step(folder), (newest.state.get("health") or {}).get("loss")
    figure = "" if newest.is_healthy or loss is None else f"loss {loss:.3g}, "
    raise ConfigError(
        f"--resume: the newest checkpoint of {folder.path}, step {newest.step}, was written after the run had diverged "
        f"({figure}above its bound since step {since}): it would only go on diverging. Go "
        f"back with --resume --from healthy (step {back}{'' if back else ', the beginning'}) and a lower learning rate "
        f"or an optim.clip_norm, or go on from it all the same with --resume --from {newest.step}"
    )
