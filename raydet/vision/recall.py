"""Recall of region proposals: which true boxes, whatever their class, one of the best proposals overlaps.

A true box counts as found where the largest IoU that it has with any proposal is large enough; one proposal may find
several boxes that overlap each other.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

BUDGETS = (10, 100, 1000)  # proposals per image, best first
PRE_NMS = 1000  # anchors per level that such proposals are made from
AR_IOUS = np.linspace(0.5, 0.95, 10)


def best_ious(proposed: Tensor, truth: Tensor) -> Tensor:
    """Return of each true box `[G, 4]` the largest IoU among the 10, 100, 1000 best of `proposed` `[P, 4]`, best first:
    `[G, 3]`."""
    ious = box_iou(truth, proposed)
    if not ious.shape[1]:
        return torch.zeros(len(truth), len(BUDGETS))
    return torch.stack([ious[:, :budget].amax(dim=1) for budget in BUDGETS], dim=1)


def recalls(best: NDArray[np.float32], iou: float) -> dict[str, float | None]:
    """Return recall at each budget, and AR at 100, from the best IoU `[G, 3]` of each true box; None without any."""
    average = average_recalls(best)["ar_100"]
    if not len(best):
        return {**{f"recall_{budget}": None for budget in BUDGETS}, "ar_100": average}
    return {**{f"recall_{n}": float((best[:, i] >= iou).mean()) for i, n in enumerate(BUDGETS)}, "ar_100": average}


def average_recalls(best: NDArray[np.float32]) -> dict[str, float | None]:
    """Return AR at each budget: the mean recall over IoUs of 0.5, 0.55, ..., 0.95; None without true boxes."""
    if not len(best):
        return {f"ar_{budget}": None for budget in BUDGETS}
    return {f"ar_{n}": float((best[:, i, None] >= AR_IOUS).mean()) for i, n in enumerate(BUDGETS)}
