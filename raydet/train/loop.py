"""THE training loop: one method, one label source, one student; every rank runs this function.

at step s (s optimiser steps done)
 1 checkpoint, where one is due: drain the label source first
 2 at the burn-in's end: the teacher becomes an exact copy of the student; at publish steps: publish it
 3 ask for the labels of every step up to s + lookahead whose teacher version exists
 4 take the labels of step s; a label older than the schedule's bound is an error
 5 join labels and views to the batch that the student trains on: for a detector, select pseudo-boxes and carry them
   into the strong views
 6 one forward, one backward; every loss normalised over all ranks; a non-finite loss is an error
 7 change what is remembered of each image; optimiser; learning rate = f(s)
 8 teacher <- keep * teacher + (1 - keep) * student; s += 1
 9 log, evaluate
10 leave, where the lead rank was asked to stop
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from raydet.config.run import RunConfig
from raydet.labels.source import LabelSource
from raydet.methods import Method
from raydet.models.ema import EmaTeacher, digest, weights_of
from raydet.records import PseudoLabel, TeacherRef
from raydet.tasks.base import Loader, Prepared, Task
from raydet.train.checkpoint import Checkpoint, clean_checkpoints, write_checkpoint
from raydet.train.group import Group
from raydet.train.journal import Journal
from raydet.train.optim import autocast_dtype, build_optimizer, set_lr
from raydet.train.rundir import RunFolder
from raydet.train.state import TrainState, digest_of_images, digest_of_labeled
from raydet.train.step import StepModule, backward, share_statistics, statistics_of, wrap


class Trainer:
    """One rank of one run. `run()` is the loop; the other methods are its numbered steps."""

    def __init__(
        self,
        config: RunConfig,
        task: Task[Any],
        method: Method[Any, Any],
        data: Prepared,
        source: LabelSource,
        group: Group,
        journal: Journal,
        views: Any,
    ) -> None:
        self.config, self.task, self.method, self.data = config, task, method, data
        self.source, self.group, self.journal, self.views = source, group, journal, views
        self.folder = RunFolder(config.run.dir)
        self.schedule = method.schedule()
        torch.manual_seed(config.seed)  # the one global seed: the student's initial weights
        student = method.build_model(len(data.class_names)).to(group.device).train()
        dtype = autocast_dtype(config.optim.precision, group.device)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=dtype == torch.float16)
        unlabeled = 0 if data.unlabeled is None else len(data.unlabeled)
        memory = method.build_memory(len(data.labeled), unlabeled, len(data.class_names))
        optimizer, images = build_optimizer(student, config.optim), digest_of_images(data)
        self.state = TrainState(student, optimizer, self.scaler, memory, images, digest_of_labeled(data))
        self.module = StepModule(student, method, device=group.device, dtype=dtype)
        self.statistics = statistics_of(student)
        self.names = tuple(method.loss_weights)
        self.weights = torch.tensor(list(method.loss_weights.values()), device=group.device)

    def start_from(self, checkpoint: Checkpoint | None, fork: Checkpoint | None) -> None:
        """Go on from this run's checkpoint, or start from another run's burn-in, or from scratch."""
        if checkpoint is not None:
            self.state.restore(checkpoint, keep_rate=self.method.ema_keep_rate)
        elif fork is not None:
            left_out = self.state.fork(fork, drops=self.method.fork_drops)
            if left_out:
                self.journal.note(self.state.step, f"forked from {fork.path}; left out: {', '.join(left_out)}")
        self.group.barrier()  # every rank has opened its store
        self.source.rewind(self.state.step)
        self.group.barrier()  # nobody asks before everybody's newer labels are gone
        if self.state.published is not None:
            self.source.publish(*self.state.published)

    def run(self, asked_to_stop: Callable[[], bool] = lambda: False) -> None:
        """Train to the end, or until asked to stop. Waits for labels, other ranks and the disk."""
        config, state, schedule = self.config, self.state, self.schedule
        module = wrap(self.module) if self.group.world > 1 else self.module
        loader = self.task.build_loader(self.data, self.method, schedule, self.views, self.group)
        self.asked = first = state.step
        try:
            while state.step < config.last_step:
                s = state.step
                clock = time.perf_counter()
                if s != first and (self._due(s, config.checkpoint.every) or state.best.get("step") == s):
                    self.checkpoint()  # 1
                self.update_teacher_version(s)  # 2
                asked_at = time.perf_counter()
                labels = self.labels_of(s, loader)  # 3, 4
                labeled_at = time.perf_counter()
                views = loader.take(s)
                loaded_at = time.perf_counter()
                batch, stats = self.task.assemble(  # 5
                    s,
                    views,
                    labels,
                    self.method,
                    state.memory,
                    version=schedule.version_for(s),
                    max_age=schedule.max_age,
                    num_classes=len(self.data.class_names),
                )
                losses = backward(  # 6
                    module,
                    batch,
                    self.weights,
                    self.group,
                    names=self.names,
                    scaler=self.scaler,
                    accumulate=config.optim.accumulate,
                    wants_stop=asked_to_stop(),
                )
                grad_norm = self.grad_norm()
                stats.hear(losses.told)
                grad = None if self.scaler.is_enabled() else grad_norm
                losses.check_finite(grad, batch, self.group, lr_keys=config.method.lr_keys)
                if state.memory is not None:
                    self.method.learn(state.memory, batch, losses.told, self._total)  # 7
                self.optimizer_step(s, grad_norm)
                if state.ema is not None:
                    state.ema.update(state.student)  # 8
                state.step += 1
                times = {
                    "step_s": time.perf_counter() - clock,
                    "upkeep_s": asked_at - clock,  # checkpoint and publishing
                    "label_wait_s": labeled_at - asked_at,
                    "data_wait_s": loaded_at - labeled_at,
                }
                self.journal.step(  # 9
                    state.step,
                    losses,
                    stats,
                    lr=self.method.lr_at(s),
                    grad_norm=grad_norm,
                    times=times,
                    source=self.source.stats(),
                    extras=self.task.extras(self.method, s),
                )
                if self._due(state.step, config.eval.every):
                    self.evaluate()
                if losses.stop_votes > 0:  # 10
                    break
            if state.step != first:
                self.checkpoint()
        finally:
            loader.close()

    def labels_of(self, s: int, loader: Loader) -> list[PseudoLabel]:
        """Ask for the labels of every step up to s + lookahead that can be asked for; wait for those of step s.

        The end of the run is no exception, so that a run can be made longer later.
        """
        while self.asked <= s + self.config.labels.lookahead:
            version = self.schedule.version_for(self.asked)
            if version is not None and version > s:
                break  # by a teacher that does not exist yet
            if version is not None:
                self.source.request(self._wanted(loader, self.asked, version), version)
            self.asked += 1
        version = self.schedule.version_for(s)
        return [] if version is None else self.source.take(self._wanted(loader, s, version), version)

    def _wanted(self, loader: Loader, step: int, version: int) -> list[str]:
        """Return this rank's images of a step whose label is needed: all, but for those that are remembered."""
        ids = loader.unlabeled_ids(step)
        if self.state.memory is None:
            return ids
        needed = self.state.memory.needs(loader.unlabeled_rows(step), version)
        return [image_id for image_id, is_needed in zip(ids, needed, strict=True) if is_needed]

    def update_teacher_version(self, s: int) -> None:
        """Create the teacher at the burn-in's end, and publish at publish steps: the teacher, or else the student."""
        keep_rate = self.method.ema_keep_rate
        if keep_rate is not None and s == self.config.method.burn_in_steps and self.state.ema is None:
            self.state.ema = EmaTeacher(self.state.student, keep_rate=keep_rate)
        if self.schedule.is_publish_step(s):
            weights = weights_of(self.state.student if self.state.ema is None else self.state.ema.model)
            ref = TeacherRef(s, digest(weights))
            self.source.publish(ref, weights)
            self.state.published = (ref, weights)
            oldest_needed = self.schedule.version_for(s)
            assert oldest_needed is not None
            self.source.retire(oldest_needed)  # every rank has consumed step s - 1: the gradients were reduced

    def _total(self, rows: Tensor) -> Tensor:
        """Return the sum of `rows` over all ranks, in main memory."""
        return self.group.sum(rows.to(self.group.device)).cpu()

    def grad_norm(self) -> torch.Tensor:
        """Return the norm of the reduced gradients, unscaled; the same on every rank."""
        self.scaler.unscale_(self.state.optimizer)
        return torch.nn.utils.get_total_norm([p.grad for p in self.state.student.parameters() if p.grad is not None])

    def optimizer_step(self, s: int, grad_norm: torch.Tensor) -> None:
        """Clip, step and clear; then all ranks agree on the statistics of the student's batch norms."""
        optim, state = self.config.optim, self.state
        set_lr(state.optimizer, self.method.lr_at(s))
        if optim.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(state.student.parameters(), optim.clip_norm, grad_norm)
        self.scaler.step(state.optimizer)
        self.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        share_statistics(self.statistics, self.group)

    def checkpoint(self) -> None:
        """Drain the label source, then save. After the drain no label of an older teacher is ever needed again."""
        state = self.state
        self.source.flush()
        self.group.barrier()  # every rank's labels are on disk before the checkpoint says that they are
        self.journal.flush(state.step)
        role, model = ("students", state.student) if state.ema is None else ("teachers", state.ema.model)
        digests = self.group.all_gather(digest(weights_of(model)))
        if len(set(digests)) != 1:
            raise RuntimeError(f"step {state.step}: the ranks' {role} differ: {digests}; please report this")
        if self.group.is_lead:
            names = list(self.data.class_names)
            tensors = state.tensors(is_publish_step=self.schedule.is_publish_step(state.step))
            record = {**state.record(), "class_names": names, "method": self.config.method.name}
            path = write_checkpoint(self.folder.checkpoints, state.step, tensors, record)
            pinned = {*self.method.stage_ends, int(state.best.get("step", 0))}
            clean_checkpoints(self.folder.checkpoints, keep=self.config.checkpoint.keep, also=frozenset(pinned))
            self.journal.checkpoint(state.step, path, is_best=state.best.get("step") == state.step)
        self.group.barrier()

    def evaluate(self) -> None:
        """Measure student and teacher on the validation images, the work shared by all ranks."""
        state, score_name = self.state, self.config.figures[0]
        if self.group.is_lead:
            judged = state.student if state.ema is None else state.ema.model
            device, folder = self.group.device, self.folder.diagnostics
            self.task.snapshot(state.step, self.method, judged, state.memory, self.data, device, folder)
        if self.data.val is None:
            return
        models = {"student": state.student}
        if state.ema is not None:
            models["teacher"] = state.ema.model
        for role, model in models.items():
            result = self.task.evaluate(
                self.method, model, self.data.val, self.group, max_images=self.config.eval.max_images
            )
            if result is None:
                continue
            self.journal.evaluation(state.step, "val", role, result)
            is_last_role = role == list(models)[-1]
            if is_last_role and result.score is not None and state.best.get(score_name, -1.0) <= result.score:
                state.best = {"step": state.step, score_name: result.score, "model": role}
        state.best = self.group.all_gather(state.best)[0]  # ranks save together

    def _due(self, step: int, every: int) -> bool:
        """Due at multiples of `every` counted from the burn-in's end, at each stage's end, and at the run's; never
        before the first step."""
        if step == 0:
            return False
        ends = (*self.method.stage_ends, self.config.last_step)
        return step in ends or (step - self.config.method.burn_in_steps) % every == 0
