"""THE training loop: one method, one label source, one student; every rank runs this function.

at step s (s optimiser steps done)
 1 checkpoint, where one is due: drain the label source first
 2 at a stage's end: forget momentum where the method says so, freeze and thaw; at the teacher's first step: it becomes
   an exact copy of the student; at publish steps: publish it
 3 where a rebuild is due, list the unlabelled images anew; ask for the labels of every step up to s + lookahead whose
   teacher version exists
 4 take the labels of step s; a label older than the schedule's bound is an error
 5 join labels and views to the batch that the student trains on: for a detector, select pseudo-boxes and carry them
   into the strong views
 6 one forward, one backward; every loss normalised over all ranks; a non-finite loss is an error, one far above its
   running median an alarm
 7 update what is learned beside the weights; optimiser; learning rates = f(s)
 8 averages that a method keeps in its model; teacher <- keep * teacher + (1 - keep) * student; s += 1
 9 log, evaluate
10 leave, where the lead rank was asked to stop
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raydet.arithmetic import Arithmetic
from raydet.config.run import RunConfig
from raydet.contract import FamilyRun, Loader, Method, sizes_of
from raydet.data.prepared import PreparedSets
from raydet.errors import StaleLabelError
from raydet.group import Group
from raydet.labels.source import LabelSource
from raydet.precision import NAMES, autocast_dtype
from raydet.records import PseudoLabel, TeacherRef
from raydet.registry import family_of
from raydet.train.checkpoint import Checkpoint, clean_checkpoints, steps_of, write_checkpoint
from raydet.train.health import Health
from raydet.train.journal import Journal
from raydet.train.listing import ImageLists
from raydet.train.optim import build_optimizer, set_frozen, set_lrs
from raydet.train.rundir import RunFolder
from raydet.train.state import TrainState, digest_of_images, digest_of_labeled
from raydet.train.step import StepModule, backward, share_statistics, statistics_of, wrap
from raydet.train.watch import Watch
from raydet.vision.digests import digest
from raydet.vision.ema import EmaTeacher
from raydet.vision.pretrained import is_skipped
from raydet.vision.weights import weights_of


class Trainer:
    """One rank of one run. `run()` is the loop; the other methods are its numbered steps."""

    def __init__(
        self,
        config: RunConfig,
        family: FamilyRun,
        method: Method[Any, Any],
        data: PreparedSets[Any],
        source: LabelSource,
        group: Group,
        journal: Journal,
    ) -> None:
        self.config, self.family, self.method, self.data = config, family, method, data
        self.source, self.group, self.journal = source, group, journal
        self.folder = RunFolder(config.run.dir)
        self.schedule, self.teacher, self.param_groups = method.schedule(), method.teacher(), method.param_groups()
        torch.manual_seed(config.seed)  # the one global seed: the student's initial weights
        student = method.build_model(len(data.class_names)).to(group.device).train()
        self.started = [] if is_skipped() else method.start(student)
        for part in method.compiled(student):
            part.compile()  # in place: parameters keep their names, and a copy, such as the teacher, is not compiled
        self.trainable = frozenset(name for name, p in student.named_parameters() if p.requires_grad)
        dtype = autocast_dtype(config.optim.precision, group.device)  # a run's worker has settled what is `auto`
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=dtype == torch.float16)
        learned = method.build_state(sizes_of(data))
        optimizer = build_optimizer(student, self.param_groups, config.optim)
        images, labeled = digest_of_images(data), digest_of_labeled(data)
        health = Health(config.optim.divergence_ratio)
        self.state = TrainState(student, optimizer, self.scaler, learned, images, labeled, health)
        self.state.arithmetic = Arithmetic(group.device.type, NAMES[dtype])
        if self.started:
            self.state.started = {"from": str(config.model.started_from), "said": self.started[0]}
        self.watch = Watch(config, health, group, journal)
        self.module = StepModule(student, method, device=group.device, dtype=dtype)
        self.statistics = statistics_of(student)
        self.lists = ImageLists(config, method, data, source, group)
        self.names = tuple(method.loss_weights)
        self.weights = torch.tensor(list(method.loss_weights.values()))
        self.device_weights = self.weights.to(group.device)

    def start_from(self, checkpoint: Checkpoint | None, fork: Checkpoint | None) -> list[str]:
        """Go on from this run's checkpoint, or start from another run's burn-in, or from scratch.

        Returns what the journal should say of it. Raises CheckpointError where the two do not fit.
        """
        said: list[str] = []
        if (saved := checkpoint or fork) is not None:
            set_frozen(self.state.student, self.param_groups, saved.step - 1, self.trainable)  # as it was when saved
        if checkpoint is not None:
            self.state.restore(checkpoint, teacher=self.teacher)
        elif fork is not None:
            method = self.method
            left_out = self.state.fork(
                fork, drops=method.fork_drops, takes=method.fork_takes, learns=method.learns_in_burn_in
            )
            if left_out:
                said.append(f"forked from {fork.path}; left out: {', '.join(left_out)}")
        self.group.barrier()  # every rank has opened its store
        self.source.rewind(self.state.step)
        self.group.barrier()  # nobody asks before everybody's newer labels are gone
        if self.state.published is not None:
            self.source.publish(*self.state.published)
        if (version := self.schedule.version_for(self.state.step)) is not None:
            self.source.retire(version)  # or every look-up would go through the segments of all older teachers
        return said

    def run(self, asked_to_stop: Callable[[], bool] = lambda: False) -> None:
        """Train to the end, or until asked to stop. Waits for labels, other ranks and the disk."""
        config, state = self.config, self.state
        loader = self.family.build_loader()
        self.asked = first = state.step
        self.lists.begin(loader, state.learned, first)
        module: StepModule | DistributedDataParallel | None = None
        try:
            while state.step < config.last_step:
                s = state.step
                clock = time.perf_counter()
                if s != first and (self._due(s, config.checkpoint.every) or state.best.get("step") == s):
                    self.checkpoint()  # 1
                if s in self.method.stage_ends:
                    state.health.begin_stage()
                if s in self.method.fresh_optimizer_at:
                    state.optimizer.state.clear()  # 2
                if module is None or s in self.method.stage_ends:
                    module = self.module_of_stage(s, module)
                self.update_teacher_version(s)
                self.lists.update(loader, state.learned, state.teachers, s)
                asked_at = time.perf_counter()
                labels = self.labels_of(s, loader)  # 3, 4
                labeled_at = time.perf_counter()
                views = loader.take(s)
                loaded_at = time.perf_counter()
                batch, stats = self.family.assemble(s, views, labels, state.learned)  # 5
                losses = backward(  # 6
                    module,
                    batch,
                    self.device_weights,
                    self.group,
                    names=self.names,
                    teacher=None if state.ema is None else state.ema.model,
                    state=state.learned,
                    scaler=self.scaler,
                    accumulate=config.optim.accumulate,
                    wants_stop=asked_to_stop(),
                )
                norm = self.grad_norm()
                losses, grad_norm = losses.on_host(norm)
                stats.observe(losses.per_view)
                grad = None if self.scaler.is_enabled() else grad_norm
                losses.check_finite(grad, batch, self.group, partial(self.watch.alarm, s))
                self.watch.observe(s, float((self.weights * losses.raw).sum()), self.rates(s))
                self.method.update(state.learned, batch, losses.per_view, losses.sums, self.group)  # 7
                self.optimizer_step(s, norm)
                self.method.after_step(state.student, s)
                if state.ema is not None and self.teacher is not None:
                    state.ema.update(state.student, keep=self.teacher.keep_at(s))  # 8
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
                    rates=self.rates(s),
                    grad_norm=grad_norm,
                    times=times,
                    source=self.source.stats(),
                    stage=self.method.stage_name(s),
                    extras=self.family.extras(s),
                )
                if self._due(state.step, config.eval.every):
                    self.evaluate()
                if losses.stop_votes > 0:  # 10
                    break
            if state.step != first:
                self.checkpoint()
            if state.step == config.last_step:
                self.watch.give_up_if_diverged(state.step)
        finally:
            loader.close()

    def module_of_stage(
        self, s: int, module: StepModule | DistributedDataParallel | None
    ) -> StepModule | DistributedDataParallel:
        """Return what the step runs forward and backward through: DDP learns only when it wraps what is frozen."""
        changed = set_frozen(self.state.student, self.param_groups, s, self.trainable)
        if module is not None and not changed:
            return module
        return wrap(self.module) if self.group.world > 1 else self.module

    def labels_of(self, s: int, loader: Loader) -> list[PseudoLabel]:
        """Ask for the labels of every step up to s + lookahead that can be asked for; wait for those of step s.

        The end of the run is no exception, so that a run can be made longer later. Raises StaleLabelError where a
        label is older than the schedule allows.
        """
        while self.asked <= s + self.config.labels.lookahead:
            version = self.schedule.version_for(self.asked)
            if version is not None and version > s:
                break  # by a teacher that does not exist yet
            if version is not None:
                self.source.request(self._wanted(loader, self.asked, version), version)
            self.asked += 1
        version = self.schedule.version_for(s)
        labels = [] if version is None else self.source.take(self._wanted(loader, s, version), version)
        for label in labels:
            age, most = s - label.teacher.version, self.schedule.max_age
            if not 0 <= age <= most:
                raise StaleLabelError(f"step {s}: label of image {label.image_id!r} has age {age}, allowed 0..{most}")
        return labels

    def _wanted(self, loader: Loader, step: int, version: int) -> list[str]:
        """Return this rank's images of a step whose label the method wants."""
        ids = loader.unlabeled_ids(step)
        wanted = self.method.wants_label(self.state.learned, loader.unlabeled_rows(step), version)
        return [image_id for image_id, is_wanted in zip(ids, wanted, strict=True) if is_wanted]

    def update_teacher_version(self, s: int) -> None:
        """Create the teacher at its first step, and publish at publish steps: the teacher, or else the student."""
        if self.teacher is not None and s == self.teacher.first_step and self.state.ema is None:
            self.state.ema = EmaTeacher(self.state.student)
        if self.schedule.is_publish_step(s):
            weights = weights_of(self.state.student if self.state.ema is None else self.state.ema.model)
            ref = TeacherRef(s, digest(weights))
            self.source.publish(ref, weights)
            self.state.published = (ref, weights)
            self.lists.note(self.state.teachers, ref)
            oldest_needed = self.schedule.version_for(s)
            assert oldest_needed is not None
            self.source.retire(oldest_needed)  # every rank has consumed step s - 1: the gradients were reduced

    def rates(self, s: int) -> dict[str, float | None]:
        """Return the learning rate of each group of parameters at a step; None: frozen."""
        return {group.name: group.lr_at(s) for group in self.param_groups}

    def grad_norm(self) -> torch.Tensor:
        """Return the norm of the reduced gradients, unscaled; the same on every rank."""
        self.scaler.unscale_(self.state.optimizer)
        return torch.nn.utils.get_total_norm([p.grad for p in self.state.student.parameters() if p.grad is not None])

    def optimizer_step(self, s: int, grad_norm: torch.Tensor) -> None:
        """Clip, step and clear; then all ranks agree on the statistics of the student's batch norms."""
        optim, state = self.config.optim, self.state
        set_lrs(state.optimizer, self.rates(s))
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
        digests = self.group.all_gather(digest(model.state_dict()))
        if len(set(digests)) != 1:
            raise RuntimeError(f"step {state.step}: the ranks' {role} differ: {digests}; please report this")
        if self.group.is_lead:
            names = list(self.data.class_names)
            tensors = state.tensors(is_publish_step=self.schedule.is_publish_step(state.step))
            record = {**state.record(), "class_names": names, "method": self.config.method.name}
            path = write_checkpoint(self.folder.checkpoints, state.step, tensors, record)
            healthy = steps_of(self.folder.checkpoints, healthy=True, before=state.health.rising_since)
            pinned = {*self.method.stage_ends, int(state.best.get("step", 0)), *healthy[-1:]}
            clean_checkpoints(self.folder.checkpoints, keep=self.config.checkpoint.keep, also=frozenset(pinned))
            self.journal.checkpoint(state.step, path, is_best=state.best.get("step") == state.step)
        self.group.barrier()

    def evaluate(self) -> None:
        """Measure student and teacher on the validation images, the work shared by all ranks."""
        state, score_name = self.state, self.config.figures[0]
        models: dict[str, nn.Module] = {"student": state.student}
        if state.ema is not None and self.teacher is not None and self.teacher.judged:
            models["teacher"] = state.ema.model
        if self.group.is_lead:
            self.family.snapshot(state.step, list(models.values())[-1], state.learned, self.folder.diagnostics)
        if self.data.val is None:
            return
        family, most = family_of(self.config), self.config.eval.max_images
        for role, model in models.items():
            result = family.evaluate(self.method, model, self.data.val, self.group, max_images=most)
            if result is None:
                continue
            self.journal.evaluation(state.step, "val", role, result)
            is_last_role = role == list(models)[-1]
            is_better = result.score is not None and state.best.get(score_name, -1.0) <= result.score
            if is_last_role and is_better and state.health.is_healthy:
                state.best = {"step": state.step, score_name: result.score, "model": role}
        state.best = self.group.all_gather(state.best)[0]  # ranks save together

    def _due(self, step: int, every: int) -> bool:
        """Due at multiples of `every` counted from the burn-in's end, at each stage's end, and at the run's; never
        before the first step."""
        if step == 0:
            return False
        ends = (*self.method.stage_ends, self.config.last_step)
        return step in ends or (step - self.config.method.burn_in_steps) % every == 0
