"""The teacher: an exponential moving average of the student, buffers included."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import nn

from raydet.records import Weights
from raydet.vision.weights import load_weights


@torch.no_grad()
def average_into(
    follower: nn.Module, followed: nn.Module, *, keep: float, without: Collection[str] = frozenset()
) -> None:
    """Do `follower <- keep * follower + (1 - keep) * followed`, in place, for two models of one kind.

    Whole numbers are copied, what is named in `without` is left alone. Raises ValueError unless keep is in [0, 1).
    """
    if not 0 <= keep < 1:
        raise ValueError(f"keep is {keep}, it must be in [0, 1); 1 would freeze the teacher")
    current = followed.state_dict()
    averaged, sources = [], []
    for name, value in follower.state_dict().items():
        if name in without:
            continue
        if value.is_floating_point():
            averaged.append(value)
            sources.append(current[name])
        else:
            value.copy_(current[name])
    # lerp = follower + (1 - keep) * (followed - follower): a frozen weight, equal in both, stays bit-equal.
    torch._foreach_lerp_(averaged, sources, 1 - keep)


class EmaTeacher:
    """A model that follows the student: `teacher <- keep * teacher + (1 - keep) * student` at every update.

    It starts as an exact copy. Floating-point parameters and buffers are averaged, everything else (the batch counters
    of BatchNorm) is copied: averaging would truncate .9996 * 100 + .0004 * 101 to 100 for ever.
    """

    def __init__(self, student: nn.Module) -> None:
        self.model = copy.deepcopy(student).eval().requires_grad_(False)

    def update(self, student: nn.Module, *, keep: float) -> None:
        """Absorb the student as it is now; call once per optimiser step. Raises ValueError unless keep is in [0, 1)."""
        average_into(self.model, student, keep=keep)

    def load(self, weights: Weights) -> None:
        """Become the teacher of a snapshot. Raises CheckpointError where it does not fit."""
        load_weights(self.model, weights)
