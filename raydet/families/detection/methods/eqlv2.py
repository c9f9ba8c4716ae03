"""Equalization loss v2 (Tan et al., CVPR 2021, "A New Gradient Balance Approach for Long-Tailed Object Detection"), on
Soft or Unbiased Teacher.

Classes are told apart by sigmoids. Each keeps the sums of its positive and negative gradients over the run, whose ratio
g_k weighs the two:

    q_k = sigmoid(gamma (g_k - mu)),  negatives count q_k,  positives 1 + alpha (1 - q_k)                (their Eq. 5-7)

Gradients are collected as they are weighted, |p - t| times the weight (published code). Before the first step g is 100:
all weights are 1. Background is a sigmoid of its own with weight 1; a class's score is p_k (1 - p_background).
Deviation EQL-D1: the host's background weights multiply the loss of an RoI, not the gradients that are collected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydet.contract import DataSizes, Outputs
from raydet.errors import CheckpointError
from raydet.families.detection.batch import StudentBatch
from raydet.families.detection.hosts import HostedMethod
from raydet.families.detection.long_tail_config import EqlV2Config
from raydet.families.detection.methods.soft_teacher import cls_terms
from raydet.group import Group
from raydet.vision.detector import Detector
from raydet.vision.device import to_device

FIRST_RATIO = 100.0
PRIOR = 0.001  # what every class's probability starts at


class SigmoidDetector(Detector):
    """A detector whose classes do not compete: scores are p_k (1 - p_background)."""

    def probabilities(self, class_logits: Tensor) -> Tensor:
        """Return scores `[R, K + 1]`, background first."""
        p = class_logits.sigmoid()
        return torch.cat([p[:, :1], p[:, 1:] * (1 - p[:, :1])], dim=1)


@dataclass(slots=True, eq=False)
class GradientRatios:
    """Positive and negative gradients of each class so far `[2, n]` float64; a `State`."""

    sums: Tensor

    @property
    def ratios(self) -> Tensor:
        """Return g `[n]`; of a class without gradients it is the first value."""
        positive, negative = self.sums
        return torch.where(negative > 0, positive / negative.clamp(min=1e-10), torch.full_like(positive, FIRST_RATIO))

    def tensors(self) -> dict[str, Tensor]:
        """Return it as it is saved; nothing before the first step that it learned from."""
        return {"gradients": self.sums.cpu()} if bool(self.sums.any()) else {}

    def load(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Become what was saved. Raises CheckpointError where it does not fit."""
        found = tensors.get("gradients")
        if found is None or found.shape != self.sums.shape or found.dtype != self.sums.dtype:
            there = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
            raise CheckpointError(
                f"{where}: its gradients of the classes are {there}, expected {self.sums.dtype} "
                f"{list(self.sums.shape)}; use a checkpoint of method.name=eqlv2 with the same classes"
            )
        if not bool(torch.isfinite(found).all()):
            raise CheckpointError(f"{where}: its gradients of the classes hold NaN or infinity; use another checkpoint")
        self.sums = found.clone()


class EqlV2(HostedMethod):
    """Classes that are mostly pushed down are pushed down less, and pulled up more."""

    settings = EqlV2Config
    config: EqlV2Config
    unseen_by_burn_in = HostedMethod.host_unseen_by_burn_in
    learns_in_burn_in = True

    def build_model(self, num_classes: int) -> Detector:
        """Return a detector whose classes start improbable."""
        model = SigmoidDetector(self.run.model, num_classes)
        nn.init.constant_(model.heads[0].box_predictor.cls_score.bias[1:].detach(), math.log(PRIOR / (1 - PRIOR)))
        return model

    def build_state(self, sizes: DataSizes) -> GradientRatios:
        """Return no gradients."""
        return GradientRatios(torch.zeros(2, sizes.classes, dtype=torch.float64))

    def state_bytes(self, sizes: DataSizes) -> int:
        """Return the size of the two rows."""
        return 16 * sizes.classes

    def losses(self, student: Any, batch: StudentBatch, teacher: Any, state: GradientRatios) -> Outputs:
        """Return all terms, and the gradients of the classes."""
        found = self.host.forward(student, batch, teacher, self.config.cls_pseudo_threshold)
        logits, labels = found.roi.logits, found.roi.labels
        positive, negative = class_weights(to_device(state.ratios, logits.device).to(logits.dtype), self.config)
        rows, sums = equalized(logits, labels, positive, negative)
        return Outputs(
            found.terms | cls_terms(batch, found.roi, rows * found.weights, found.weights), sums={"gradients": sums}
        )

    def update(
        self,
        state: GradientRatios,
        batch: StudentBatch,
        per_view: Mapping[str, Tensor],
        sums: Mapping[str, Tensor],
        group: Group,
    ) -> None:
        """Add a step's gradients of all ranks."""
        state.sums = state.sums + sums["gradients"].cpu().double()


def class_weights(ratios: Tensor, config: EqlV2Config) -> tuple[Tensor, Tensor]:
    """Return the weights of positives and of negatives `[n]` for ratios of gradients `[n]` (their Eq. 6, 7)."""
    q = torch.sigmoid(config.steepness * (ratios - config.midpoint))
    return 1 + config.positive_boost * (1 - q), q


def equalized(logits: Tensor, labels: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of each RoI `[R]`, and the classes' weighted positive and negative gradients `[2, n]`, detached.

    Logits `[R, n + 1]`, labels `[R]` with 0 for background, whose own sigmoid has weight 1.
    """
    target = F.one_hot(labels, logits.shape[1]).to(logits)
    up, down = (torch.cat([torch.ones_like(each[:1]), each]) for each in (positive, negative))
    weights = up * target + down * (1 - target)
    rows = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weights).sum(dim=1)
    gradient = (logits.detach().sigmoid() - target).abs() * weights
    raised, lowered = (gradient * target).sum(dim=0), (gradient * (1 - target)).sum(dim=0)
    return rows, torch.stack([raised[1:], lowered[1:]]).float()
