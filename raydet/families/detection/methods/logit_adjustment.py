"""Logit adjustment (Menon et al., ICLR 2021, "Long-tail learning via logit adjustment"), on Soft or Unbiased Teacher.

The loss looks at z_k + tau ln pi_k (their Eq. 10): rare classes must win by a larger margin in training, and are no
longer at a disadvantage afterwards, when nothing is added.

Here pi_k is a class's share of the labelled boxes, relative to the mean share: ln(n pi_k), so that balanced classes
change nothing, and background, of which there are as many RoIs as one likes, has 0 (deviation LA-D1). A class without
any labelled box counts as if it had one (LA-D2). Both are described in `docs/methods/long_tail_baselines.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raydet.contract import DataSizes, Outputs
from raydet.families.detection.batch import StudentBatch
from raydet.families.detection.hosts import HostedMethod
from raydet.families.detection.long_tail_config import LogitAdjustmentConfig
from raydet.families.detection.methods.soft_teacher import cls_terms
from raydet.vision import losses
from raydet.vision.device import to_device


@dataclass(slots=True, eq=False)
class Priors:
    """What the data says of the classes; a `State` that need not be saved."""

    logs: Tensor  # [n + 1] float32: 0 of background, then ln(n pi_k)

    def tensors(self) -> dict[str, Tensor]:
        """Nothing: it follows from the data."""
        return {}

    def load(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Nothing to take over."""


class LogitAdjustment(HostedMethod):
    """Class frequencies enter the loss of the RoI classes."""

    settings = LogitAdjustmentConfig
    config: LogitAdjustmentConfig
    unseen_by_burn_in = HostedMethod.host_unseen_by_burn_in

    def build_state(self, sizes: DataSizes) -> Priors:
        """Count the labelled boxes."""
        assert sizes.sets is not None, "the frequencies of the classes follow from the data"
        return Priors(log_priors(torch.from_numpy(sizes.sets.labeled.boxes_per_class())))

    def losses(self, student: Any, batch: StudentBatch, teacher: Any, state: Priors) -> Outputs:
        """Return all terms."""
        found = self.host.forward(student, batch, teacher, self.config.cls_pseudo_threshold)
        adjusted = found.roi.logits + self.config.adjustment_strength * to_device(state.logs, found.weights.device)
        rows = losses.focal_cross_entropy(adjusted, found.roi.labels, self.config.cls_focal_exponent)
        return Outputs(found.terms | cls_terms(batch, found.roi, rows * found.weights, found.weights))


def log_priors(boxes: Tensor) -> Tensor:
    """Return 0 for background, then ln(n pi_k) `[n + 1]` of classes with so many boxes `[n]`, each at least one."""
    counts = boxes.clamp(min=1).float()
    return torch.cat([torch.zeros(1), (len(counts) * counts / counts.sum()).log()])
