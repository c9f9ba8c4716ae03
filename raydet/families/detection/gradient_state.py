"""What gradient-based sampling learns beside the weights: gradients of the classes, their weights and thresholds, and
how often unlabelled images are listed. A `State`: equal on all ranks, saved with the step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from raydet.contract import DataSizes
from raydet.data.order import Listing
from raydet.errors import CheckpointError

LISTINGS = 2  # the one in force, and the one that begins next


@dataclass(slots=True, eq=False)
class GradientState:
    """Of n classes and background (index 0), and U unlabelled images."""

    updates: Tensor  # [] int64: steps that gradients came from
    matrix: Tensor  # [n + 1, n + 1] float32: C, averaged over steps
    weight_logits: Tensor  # [n + 1] float32: a
    velocity: Tensor  # [n + 1] float32: momentum of a
    solved: Tensor  # [n + 1] float32: the last solution of the other solvers
    mean_weight: Tensor  # [] float32: m
    class_scores: Tensor  # [n] float32: the teacher's mean score of each class
    detections: Tensor  # [n] float32: of each class so far
    own_logits: Tensor  # [n + 1] float32: mean logit of an RoI's own class
    first_steps: Tensor  # [2] int64: of the last listings of unlabelled images, -1: none
    repeats: Tensor  # [2, U] float32

    @staticmethod
    def fresh(sizes: DataSizes) -> GradientState:
        """Return what is known before the first step."""
        n = sizes.classes + 1
        return GradientState(
            updates=torch.zeros((), dtype=torch.int64),
            matrix=torch.zeros(n, n),
            weight_logits=torch.zeros(n),
            velocity=torch.zeros(n),
            solved=torch.ones(n),
            mean_weight=torch.ones(()),
            class_scores=torch.zeros(n - 1),
            detections=torch.zeros(n - 1),
            own_logits=torch.zeros(n),
            first_steps=torch.full((LISTINGS,), -1, dtype=torch.int64),
            repeats=torch.ones(LISTINGS, sizes.unlabeled),
        )

    @property
    def nbytes(self) -> int:
        """Return the bytes that all of it takes."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def move(self, device: torch.device) -> None:
        """Live where the sums of a step are; the listings stay on the CPU."""
        if self.matrix.device != device:
            for name in ("matrix", "weight_logits", "velocity", "solved", "mean_weight"):
                setattr(self, name, getattr(self, name).to(device))
            for name in ("class_scores", "detections", "own_logits"):
                setattr(self, name, getattr(self, name).to(device))

    def list_anew(self, first_step: int, factors: np.ndarray) -> None:
        """Add a listing `[U]` of the unlabelled images; the last one stays in force until it begins."""
        self.first_steps = torch.stack([self.first_steps[-1], torch.tensor(first_step)])
        self.repeats = torch.stack([self.repeats[-1], torch.from_numpy(factors).float()])

    def listings(self) -> list[Listing]:
        """Return the listings of unlabelled images that there are."""
        columns = zip(self.first_steps.tolist(), self.repeats.double().numpy(), strict=True)
        return [Listing("unlabeled", first, factors) for first, factors in columns if first >= 0]

    def tensors(self) -> dict[str, Tensor]:
        """Return it as it is saved; nothing before the first step that it learned from."""
        if not int(self.updates):
            return {}
        return {field.name: getattr(self, field.name).cpu() for field in fields(self)}

    def load(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Become what was saved. Raises CheckpointError where it is of other classes or images, or damaged."""
        if "mean_weights" in tensors:  # older runs had a mean of labelled and one of unlabelled RoIs
            tensors = {**tensors, "mean_weight": tensors["mean_weights"].mean()}
        for field in fields(self):
            own, found = getattr(self, field.name), tensors.get(field.name)
            if found is None:
                there = ", ".join(repr(key[:40]) for key in sorted(tensors)[:12]) or "nothing"
                raise CheckpointError(
                    f"{where}: its class statistics lack {field.name!r} (there is: {there}); use a checkpoint of "
                    f"method.name=gradient_sampling"
                )
            if found.shape != own.shape or found.dtype != own.dtype:
                raise CheckpointError(
                    f"{where}: {field.name} of its class statistics is {found.dtype} {list(found.shape)}, this run has "
                    f"{own.dtype} {list(own.shape)}: they belong to one data set; use the run's own data"
                )
            if found.is_floating_point() and not bool(torch.isfinite(found).all()):
                raise CheckpointError(
                    f"{where}: {field.name} of its class statistics holds NaN or infinity; use another checkpoint"
                )
        for field in fields(self):
            setattr(self, field.name, tensors[field.name].clone())
