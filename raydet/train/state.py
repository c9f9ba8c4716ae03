"""TrainState: all that a run needs to go on. Order, views, samples and label versions are functions of the step, and
need no state; only consumed work is recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from raydet.arithmetic import Arithmetic
from raydet.contract import State, Teacher
from raydet.data.prepared import PreparedSets
from raydet.errors import CheckpointError
from raydet.records import TeacherRef, Weights
from raydet.train.checkpoint import Checkpoint
from raydet.train.health import Health
from raydet.vision.ema import EmaTeacher
from raydet.vision.weights import load_weights


@dataclass(slots=True, eq=False)
class TrainState:
    """What changes from step to step."""

    student: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    learned: State | None = None  # what the method learns beside the weights
    images: str = ""  # digest of the images that it is about, and of their classes
    labeled: str = ""  # digest of which images are labelled
    health: Health = field(default_factory=lambda: Health(None))
    started: dict[str, str] = field(default_factory=dict)  # {"from": ..., "said": ...} of weights of another run
    arithmetic: Arithmetic | None = None
    ema: EmaTeacher | None = None
    published: tuple[TeacherRef, Weights] | None = None  # the newest teacher that was sent out to label
    teachers: dict[int, str] = field(default_factory=dict)  # version -> digest, where a listing will count its labels
    step: int = 0  # optimiser steps completed
    best: dict[str, Any] = field(default_factory=dict)  # {"step": ..., "AP": ...} of the best evaluation

    def tensors(self, *, is_publish_step: bool) -> dict[str, dict[str, Tensor]]:
        """Return what goes to disk as tensors, by file name; at a publish step the EMA is what will be published."""
        found = {"student": dict(self.student.state_dict()), "optimizer": dict(_optimizer_tensors(self))}
        if self.learned is not None and (learned := self.learned.tensors()):
            found["memory"] = learned
        if self.ema is not None:
            found["teacher"] = dict(self.ema.model.state_dict())
        if self.published is not None and not is_publish_step:
            found["published"] = self.published[1]
        return found

    def record(self) -> dict[str, Any]:
        """Return what goes to disk as JSON."""
        ref = self.published[0] if self.published is not None else None
        return {
            "published": {"version": ref.version, "digest": ref.digest} if ref else None,
            "teachers": {str(version): digest for version, digest in self.teachers.items()},
            "best": self.best,
            "health": self.health.record(),
            "started": self.started,
            "arithmetic": asdict(self.arithmetic) if self.arithmetic else None,
            "images": self.images,
            "labeled": self.labeled,
            "optimizer": type(self.optimizer).__name__,
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, checkpoint: Checkpoint, *, teacher: Teacher | None) -> None:
        """Take over everything from a checkpoint of the same run. Raises CheckpointError where it does not fit."""
        self._restore_student(checkpoint)
        self._restore_learned(checkpoint)
        if checkpoint.has("teacher") and teacher is not None:
            self.ema = EmaTeacher(self.student)
            self.ema.load(checkpoint.tensors("teacher"))
        ref = checkpoint.state.get("published")
        if ref is not None and checkpoint.has("published"):
            self.published = (TeacherRef(ref["version"], ref["digest"]), checkpoint.tensors("published"))
        self.teachers = {int(v): digest for v, digest in (checkpoint.state.get("teachers") or {}).items()}
        self.best = dict(checkpoint.state.get("best") or {})
        self._restore_scaler(checkpoint)

    def fork(
        self,
        checkpoint: Checkpoint,
        *,
        drops: Callable[[str], bool],
        takes: Callable[[str], str | None] = lambda name: None,
        learns: bool = False,
    ) -> list[str]:
        """Take over student, optimiser and step of another run's burn-in. Returns the names of weights left out.

        Of the weights that this model lacks, those of which `drops` says so are; those that only this model has start
        as copies of the ones that `takes` names. `learns`: what the method learns beside the weights comes over, too;
        else a burn-in has nothing of the kind. Raises CheckpointError where the two do not fit; `check_fork` compares
        their settings.
        """
        if checkpoint.has("teacher"):
            raise CheckpointError(
                f"{checkpoint.path}: this checkpoint already has a teacher; fork from the one at the burn-in's end"
            )
        if checkpoint.has("memory") and not learns:
            theirs = checkpoint.state.get("method")
            raise CheckpointError(
                f"{checkpoint.path}: this checkpoint already has what {f'method.name={theirs}' if theirs else 'it'} "
                f"learns beside the weights; fork from the one at the burn-in's end, or from another method's burn-in"
            )
        if learns:
            self._restore_learned(checkpoint)
        left_out = self._restore_student(checkpoint, drops, takes)
        self._restore_scaler(checkpoint)
        return left_out

    def _restore_learned(self, checkpoint: Checkpoint) -> None:
        if self.learned is None or not checkpoint.has("memory"):
            return
        if checkpoint.state.get("images") != self.images:
            raise CheckpointError(
                f"{checkpoint.path}: what it has learned is about other images or other classes than this run's; "
                f"restore the data that the run was started with, or start a new run"
            )
        self.learned.load(checkpoint.tensors("memory"), str(checkpoint.path))

    def _restore_scaler(self, checkpoint: Checkpoint) -> None:
        if self.scaler.is_enabled() and checkpoint.state.get("scaler"):
            self.scaler.load_state_dict(checkpoint.state["scaler"])

    def _restore_student(
        self,
        checkpoint: Checkpoint,
        drops: Callable[[str], bool] = lambda name: False,
        takes: Callable[[str], str | None] = lambda name: None,
    ) -> list[str]:
        weights = checkpoint.tensors("student")
        for name in set(self.student.state_dict()) - set(weights):
            if (source := takes(name)) in weights:
                weights[name] = weights[source]
        lacking = sorted(set(weights) - set(self.student.state_dict()))
        dropped = [name for name in lacking if drops(name)]
        if dropped != lacking:
            raise CheckpointError(f"{checkpoint.path}: weights that this model lacks: {', '.join(lacking[:5])}")
        load_weights(self.student, {k: v for k, v in weights.items() if k not in dropped})
        load_optimizer(self, checkpoint.tensors("optimizer"), str(checkpoint.path))
        self.step = checkpoint.step
        self.health.load(checkpoint.state.get("health") or {})
        self.started = dict(checkpoint.state.get("started") or {})
        return dropped


def digest_of_images(data: PreparedSets[Any]) -> str:
    """Return a digest of all images of a run, in order, and of its classes: of what is learned beside the weights."""
    parts = [index.content if index is not None else "" for index in (data.unlabeled, data.labeled)]
    return hashlib.sha256(json.dumps([*parts, *data.class_names]).encode()).hexdigest()


def digest_of_labeled(data: PreparedSets[Any]) -> str:
    """Return a digest of which images are labelled, and of the classes."""
    return hashlib.sha256(json.dumps([sorted(data.labeled.ids()), *data.class_names]).encode()).hexdigest()


def _parameters(state: TrainState) -> Iterator[tuple[str, torch.nn.Parameter]]:
    known = {id(p) for group in state.optimizer.param_groups for p in group["params"]}  # frozen for now or not
    return ((name, p) for name, p in state.student.named_parameters() if id(p) in known)


def _optimizer_tensors(state: TrainState) -> Iterator[tuple[str, Tensor]]:
    """Yield `quantity/parameter name` -> tensor: by name, so that it fits any world size and parameter order."""
    for name, parameter in _parameters(state):
        for quantity, value in state.optimizer.state.get(parameter, {}).items():
            if value is not None:
                yield f"{quantity}/{name}", torch.as_tensor(value)


def load_optimizer(state: TrainState, tensors: dict[str, Tensor], where: str) -> None:
    """Give the optimiser what `_optimizer_tensors` said. Raises CheckpointError where it is of other parameters."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        quantity, name = key.split("/", 1)
        by_name.setdefault(name, {})[quantity] = value
    is_fused = any(group.get("fused") for group in state.optimizer.param_groups)
    for name, parameter in _parameters(state):
        saved = by_name.get(name)
        if saved is None and by_name and parameter.requires_grad:
            raise CheckpointError(f"{where}: optimizer.safetensors has nothing for parameter {name}")
        if saved is None:
            continue  # no state yet: a checkpoint of step 0, or frozen so far
        for quantity, value in saved.items():
            if value.ndim > 0 and value.shape != parameter.shape:
                raise CheckpointError(f"{where}: optimizer state {quantity} of {name} has shape {tuple(value.shape)}")
        # Moments live beside their parameter; Adam's step counter on the CPU, unless one kernel does all and reads it.
        state.optimizer.state[parameter] = {
            q: value.clone() if value.ndim == 0 and not is_fused else value.to(parameter.device, copy=True)
            for q, value in saved.items()
        }
