"""What one training process does, whoever started it: open, restore, train. No Ray here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from raydet.cluster.process import computing
from raydet.config.run import RunConfig
from raydet.contract import FamilyRun
from raydet.data.prepared import PreparedSets
from raydet.errors import CheckpointError
from raydet.group import Group
from raydet.labels.none import NoLabels
from raydet.labels.snapshots import remove_after
from raydet.labels.source import InlineSource, LabelSource
from raydet.labels.store import PseudoLabelStore
from raydet.metrics import truncate_after
from raydet.precision import NAMES, settled_dtype
from raydet.registry import build_method, family_of
from raydet.train.checkpoint import Checkpoint, clean_checkpoints, latest_checkpoint, open_checkpoint, set_aside
from raydet.train.going_back import diverged_since
from raydet.train.journal import Journal
from raydet.train.loop import Trainer
from raydet.train.optim import OPTIMIZERS
from raydet.train.rundir import RunFolder
from raydet.train.state import digest_of_labeled
from raydet.train.stop import watching
from raydet.vision.pretrained import architecture_only

SourceFactory = Callable[[RunConfig, FamilyRun, Group, int], LabelSource]
"""Makes this rank's label source; the number is the attempt's, larger than that of every attempt before it."""


def train_rank(config: RunConfig, group: Group, make_source: SourceFactory) -> None:
    """Train as one rank, from the newest complete checkpoint where there is one. Returns when training is done, or was
    asked to stop and has saved a checkpoint."""
    with computing(config.cluster.cpus_per_worker):
        data = family_of(config).open(RunFolder(config.run.dir).data)
        _train(_build(config, group, data, make_source), config, group)


def _train(trainer: Trainer, config: RunConfig, group: Group) -> None:
    try:
        with watching(RunFolder(config.run.dir).stop if group.is_lead else None) as asked_to_stop:
            trainer.run(asked_to_stop)
    except BaseException as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(Exception):  # the first error is the one to show
            trainer.journal.end(trainer.state.step, reason, message=f"{type(error).__name__}: {error}")
        with suppress(Exception):
            trainer.source.close()
        raise
    trainer.journal.end(trainer.state.step, _reason(trainer.state.step, config))
    trainer.source.close()


def local_source(config: RunConfig, family: FamilyRun, group: Group, attempt: int) -> LabelSource:
    """Return the label source of a training process that runs the teacher itself, or needs no labels."""
    if not config.uses_labels:
        return NoLabels()
    folder = RunFolder(config.run.dir)
    store = PseudoLabelStore(folder.labels, writer=f"rank{group.rank}", keep_versions=config.labels.keep_versions)
    return InlineSource(family.build_annotator(), store)


def _reason(step: int, config: RunConfig) -> str:
    """Return why training ended without an error."""
    if step < config.last_step:
        return "stopped"  # as it was asked to
    return "done" if step >= config.length else "reached run.stop_at"


def check_fork(fork: Checkpoint, config: RunConfig, data: PreparedSets[Any]) -> None:
    """Raise CheckpointError unless a run of this configuration, on these data, can start from that checkpoint."""
    where = f"run.fork_from={fork.path}"
    theirs = list(fork.state.get("class_names", []))
    if theirs != list(data.class_names):
        raise CheckpointError(
            f"{where}: its classes are {theirs}, this run's are {list(data.class_names)}; they must agree"
        )
    if fork.state.get("labeled") not in (None, digest_of_labeled(data)):
        raise CheckpointError(
            f"{where}: it was trained with other labelled images than this run's, so what is unlabelled here may have "
            f"been seen with its label; use the same data.labeled and the same choice of it (data.split_seed among "
            f"others), or take the weights alone with model.init_from"
        )
    _check_settings(fork, config)


def check_start_of_fork(config: RunConfig) -> None:
    """Raise CheckpointError where no run of this configuration, on whatever data, can start from `run.fork_from`.

    It is not there, is damaged, too far or of a diverged run, or began with other weights than this run would.
    """
    fork = _fork_of(config)
    _check_settings(fork, config)
    wanted = config.model.started_from
    begun = (fork.state.get("started") or {}).get("from")
    if wanted is not None and begun != wanted:
        raise CheckpointError(
            f"run.fork_from={fork.path} brings all weights, and the run that it is of started from "
            f"{begun or 'no other run'}, not from model.init_from={wanted}: keep one of the two settings"
        )


def _check_settings(fork: Checkpoint, config: RunConfig) -> None:
    where, burn_in = f"run.fork_from={fork.path}", config.method.burn_in_steps
    if fork.step > burn_in:
        raise CheckpointError(
            f"{where} is at step {fork.step}, method.burn_in_steps is {burn_in}: the teacher starts at the burn-in's "
            f"end, so fork from a checkpoint at or before it, or raise method.burn_in_steps"
        )
    if diverged_since(RunFolder(fork.path.parent.parent), fork) is not None:
        raise CheckpointError(
            f"{where} was written after its run had diverged: fork from an older one, or train it again with a lower "
            f"learning rate or an optim.clip_norm"
        )
    optimizer = OPTIMIZERS[config.optim.name].__name__
    if fork.state.get("optimizer") not in (None, optimizer):
        raise CheckpointError(
            f"{where} was trained with {fork.state['optimizer']}, optim.name is {config.optim.name}; use the same"
        )


def _fork_of(config: RunConfig) -> Checkpoint:
    try:
        return open_checkpoint(Path(str(config.run.fork_from)))
    except CheckpointError as error:
        raise CheckpointError(f"run.fork_from: {error}") from None


def _settled(config: RunConfig, group: Group, checkpoint: Checkpoint | None) -> RunConfig:
    """Return the configuration with the precision that all ranks compute in: as the run began, else as the lead's
    device wants it."""
    begun = checkpoint.arithmetic if checkpoint else None
    dtype = group.all_gather(settled_dtype(config.optim.precision, group.device, begun))[0]
    optim = config.optim.model_copy(update={"precision": NAMES[dtype]})
    return config.model_copy(update={"optim": optim})


def _build(config: RunConfig, group: Group, data: PreparedSets[Any], make_source: SourceFactory) -> Trainer:
    folder = RunFolder(config.run.dir)
    if group.is_lead:
        clean_checkpoints(folder.checkpoints, keep=1_000_000)  # unfinished writes of a killed attempt
    # One rank looks, all use what it found: a file system may show the newest checkpoint to some ranks later.
    found = latest_checkpoint(folder.checkpoints) if group.is_lead else None
    if found is not None and found.passed_over:  # damaged: they must not count among those that are kept
        set_aside(folder.checkpoints, found.step, folder.abandoned)
    path = group.all_gather(found.path if found else None)[0]
    checkpoint = open_checkpoint(path) if path else None
    fork = _fork_of(config) if config.run.fork_from and checkpoint is None else None
    if fork is not None:
        check_fork(fork, config, data)
    start = checkpoint.step if checkpoint else fork.step if fork else 0
    if group.is_lead:
        truncate_after(folder.metrics, start)
        remove_after(folder.diagnostics, start)
    attempt = group.all_gather(folder.next_attempt() if group.is_lead else 0)[0]
    config = _settled(config, group, checkpoint)
    method = build_method(config)
    family = family_of(config).bind(data, method, group)
    journal = Journal(config, family, method, group)
    source = make_source(config, family, group, attempt)
    with nullcontext() if checkpoint is None and fork is None else architecture_only():  # theirs are taken below
        trainer = Trainer(config, family, method, data, source, group, journal)
    try:
        said = trainer.start_from(checkpoint, fork)  # a run that is refused here has not begun
    except BaseException:
        with suppress(Exception):  # the first error is the one to show
            source.close()
        raise
    num_params = sum(p.numel() for p in trainer.state.student.parameters())
    journal.start(start, attempt=attempt, num_params=num_params)
    passed_over = [f"an older checkpoint is used: {problem}" for problem in found.passed_over] if found else []
    for line in (*trainer.started, *passed_over, *said):
        journal.note(start, line)
    return trainer
