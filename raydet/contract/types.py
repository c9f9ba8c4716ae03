"""What passes between the engine and a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from raydet.data.prepared import PreparedSets


class Batch(Protocol):
    """This rank's share of one training step."""

    @property
    def step(self) -> int:
        """Return the step: optimiser steps completed before it."""

    @property
    def image_ids(self) -> list[str]:
        """Return the id of each view's image, group by group."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Return the number of views in each group, in the order of the views; equal keys on all ranks."""

    def split(self, parts: int) -> Sequence[Batch]:
        """Return it in so many passes, each with its share of every group, in order; an image's views stay together."""


@dataclass(frozen=True, slots=True, eq=False)
class LossTerm:
    """A loss as sum and count, so that its mean can be taken over all ranks at once."""

    total: Tensor  # scalar SUM over elements; on the graph even when it is empty
    count: Tensor  # scalar number of elements that it is to be divided by, after summing over ranks
    group: str | None = None  # of `Batch.sizes`: the views that it is about; None: all of them


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What one forward over a batch gives."""

    losses: dict[str, LossTerm]  # the keys of `Method.loss_weights`
    per_view: dict[str, Tensor] = field(default_factory=dict)  # one row per view, group by group, detached
    sums: dict[str, Tensor] = field(default_factory=dict)  # float32, detached; summed over all ranks with the losses


class State(Protocol):
    """What a run learns beside the weights: equal on all ranks, saved with the weights of the same step."""

    def tensors(self) -> dict[str, Tensor]:
        """Return it as named tensors, to be saved; nothing where nothing was learned yet."""

    def load(self, tensors: dict[str, Tensor], where: str) -> None:
        """Become what was saved. Raises CheckpointError, starting with `where`, where it does not fit."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """An average of the student: `teacher <- keep * teacher + (1 - keep) * student` after every step."""

    first_step: int  # there it becomes an exact copy of the student
    keep_at: Callable[[int], float]  # step -> keep, in [0, 1)
    judged: bool = True  # whether it is evaluated, and is what comes out of the run

    def share_of_start(self, last_step: int) -> float:
        """Return how much of the student of `first_step` the average still holds after `last_step` steps."""
        share = 1.0
        for step in range(self.first_step, last_step):
            share *= self.keep_at(step)
            if share < 0.01:
                break
        return share


@dataclass(frozen=True, slots=True)
class ParamGroup:
    """Parameters of the student with one law of the learning rate; a parameter is in the first group it matches."""

    name: str
    match: Callable[[str], bool]  # parameter name -> whether it belongs here
    lr_at: Callable[[int], float | None]  # step -> learning rate; None: frozen, which changes at stage ends alone


@dataclass(frozen=True, slots=True)
class DataSizes:
    """How much data a run has."""

    labeled: int  # images
    unlabeled: int
    classes: int
    sets: PreparedSets[Any] | None = None  # the images themselves; None where only their number is asked about


def sizes_of(data: PreparedSets[Any]) -> DataSizes:
    """Return how much data a run has."""
    num_unlabeled = 0 if data.unlabeled is None else len(data.unlabeled)
    return DataSizes(len(data.labeled), num_unlabeled, len(data.class_names), data)


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something is wrong with the labels since the last line of the log."""

    name: str
    message: str
    after_steps: int  # only worth saying when it has been so for so long


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that limits a run, as its figures say."""

    sentence: str  # what it is, and what to do about it
    figures: Mapping[str, str]  # what it was concluded from: name -> value, shown beside the sentence
    uses_truth: bool = False  # whether the hidden truth of unlabelled images is among them
