"""Detection losses as pure functions. Every function returns one value per row: callers sum, nobody averages here.

The normaliser of a loss is part of the method (papers divide box losses by *all* samples, not by the matched ones), and
sums can be added over images and ranks before they are divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

TORCHVISION_SMOOTH_L1_BETA = 1 / 9  # below this distance torchvision's box loss is quadratic


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return `-log p_y` per row `[R]`, for logits `[R, C]` and labels `[R]` int64."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def focal_cross_entropy(logits: Tensor, labels: Tensor, exponent: float) -> Tensor:
    """Return `(1 - p_y)^exponent * (-log p_y)` per row `[R]`, for logits `[R, C]` and labels `[R]` int64.

    The multi-class focal loss of Unbiased Teacher (their section 3.3): no balancing factor per class.
    """
    return _focal(cross_entropy(logits, labels), exponent)


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return `-t log q - (1 - t) log(1 - q)` with `q = sigmoid(logit)` per row, targets in [0, 1]."""
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")


def binary_focal(logits: Tensor, targets: Tensor, exponent: float) -> Tensor:
    """Return `(1 - p_t)^exponent * (-log p_t)` per row (IL-net, Eq. 2), for targets in {0, 1}.

    p_t is q for target 1 and 1 - q for target 0, that is exp(-binary cross-entropy); the latter also defines it for the
    soft targets of the `focal_soft` ablation.
    """
    return _focal(binary_cross_entropy(logits, targets), exponent)


def box_regression(predicted: Tensor, wanted: Tensor, kind: Literal["l1", "smooth_l1"]) -> Tensor:
    """Return the distance of two sets of box deltas `[M, 4]`, summed over the four numbers: `[M]`.

    `l1`: |d| (detectron2). `smooth_l1`: d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, beta = 1/9 (torchvision).
    """
    beta = TORCHVISION_SMOOTH_L1_BETA if kind == "smooth_l1" else 0.0
    return F.smooth_l1_loss(predicted.float(), wanted.float(), beta=beta, reduction="none").sum(dim=1)


def smooth_l1(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Return d^2 / 2 where |d| < 1, else |d| - 1/2, per row (IL-net's Fig. 3b compares it with the focal loss)."""
    return F.smooth_l1_loss(predicted.float(), wanted.float(), beta=1.0, reduction="none")


def sum_per_image(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Sum rows `[R]` image by image: the first `counts[0]` rows belong to image 0, ... Returns `[len(counts)]`.

    No scatter: each image's sum is the same number whatever other images are in the batch, on a GPU too.
    """
    return torch.stack([part.sum() for part in torch.split(rows, list(counts))])


def _focal(surprise: Tensor, exponent: float) -> Tensor:
    """Return `(1 - p)^exponent * (-log p)` for `surprise = -log p`."""
    # expm1 keeps 1 - p exact for p near 1. The clamp blocks the infinite slope that an exponent below 1 has at p = 1.
    doubt = (-torch.expm1(-surprise)).clamp(min=1e-12)
    return doubt**exponent * surprise
