"""What a method is: one paper, one file. The training loop talks to `Method` alone and knows no method's name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from raydet.config.method import TeacherSection
from raydet.config.run import RunConfig
from raydet.labels.schedule import LabelSchedule
from raydet.learning_rate import lr_at
from raydet.records import StepTerms

Config = TypeVar("Config", bound=RunConfig)
AnyBatch = TypeVar("AnyBatch")
SumOverRanks = Callable[[Tensor], Tensor]


class Memory(Protocol):
    """What a run keeps of each image from step to step, beside the weights: equal on all ranks, saved with them."""

    def tensors(self) -> dict[str, Tensor]:
        """Return it as named tensors, to be saved; nothing where nothing was learned yet."""

    def load(self, tensors: dict[str, Tensor], where: str) -> None:
        """Become what was saved. Raises CheckpointError, starting with `where`, where it does not fit."""

    def needs(self, rows: Sequence[int], version: int) -> list[bool]:
        """Say which unlabelled images (rows of their index) want the label of that teacher."""


class Method(ABC, Generic[Config, AnyBatch]):
    """One paper. Subclasses of a family's base are never subclassed."""

    unseen_by_burn_in: ClassVar[frozenset[str]] = frozenset()
    """Keys of the method's configuration that change nothing before the burn-in's end, so that a search over them
    trains the burn-in once."""

    fork_drops: ClassVar[str | None] = None
    """What weights of a checkpoint begin with that a run may be forked without, where its model has none of them."""

    def __init__(self, config: Config) -> None:
        self.run = config

    @property
    @abstractmethod
    def loss_weights(self) -> dict[str, float]:
        """Names and weights of the loss terms, the same on every rank and at every step.

        Names start with the images that a term is about: `sup/` labelled, `unsup/` unlabelled, anything else: both.
        """

    @abstractmethod
    def build_model(self, num_classes: int) -> nn.Module:
        """Return a freshly initialised model; student and teacher are both made by this."""

    @abstractmethod
    def schedule(self) -> LabelSchedule:
        """Say which teacher version labels which step, or that no step needs labels."""

    @abstractmethod
    def step_terms(self, student: Any, batch: AnyBatch, device: torch.device) -> StepTerms:
        """Return every term of `loss_weights` for this rank's views; runs inside DDP's forward."""

    @property
    def ema_keep_rate(self) -> float | None:
        """Return what one update keeps of the teacher; None: the student of a publish step is the teacher itself."""
        config = self.run.method
        return config.ema_keep_rate if isinstance(config, TeacherSection) else None

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """Return the steps at which the run changes its nature; there it is evaluated and saved."""
        return (self.run.method.burn_in_steps,)

    def lr_at(self, step: int) -> float:
        """Return the learning rate of the step that starts after `step` completed ones."""
        return lr_at(step, self.run.optim)

    def build_memory(self, num_labeled: int, num_unlabeled: int, num_classes: int) -> Memory | None:
        """Return what the run keeps of each image; None: nothing."""
        return None

    def memory_bytes(self, num_labeled: int, num_unlabeled: int, num_classes: int) -> int:
        """Return how large that is, on every rank and in a checkpoint; allocates nothing."""
        return 0

    def learn(self, memory: Any, batch: AnyBatch, told: dict[str, Tensor], total: SumOverRanks) -> None:
        """Change the memory by what one step's forward `told`, before the weights change; the same on all ranks."""

    def notes(self, num_labeled: int, num_unlabeled: int, num_classes: int) -> list[str]:
        """Return what a user should read before the run starts, a line each."""
        return []
