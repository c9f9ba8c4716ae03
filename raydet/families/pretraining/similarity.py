"""How alike boxes are in two views, as pure functions (ADePT, Eqs. 2 to 7)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raydet.vision.norms import unit


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine `[R]` of rows of `a` and `b` `[R, D]`, float32; each row is normalised by itself."""
    return (unit(a) * unit(b)).sum(dim=1)


def disagreement(online: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
    """Return `-2 <v, v'> - 2 <v, v''>` `[R]` of unit vectors: the summand of L_sim.                          (6)

    `online` is v `[R, D]`, `targets` v' and v'' of the same boxes in two views of the other branch, without gradient.
    """
    first, second = targets
    return -2 * cosines(online, first.detach()) - 2 * cosines(online, second.detach())


def swapped(target: Tensor, online: tuple[Tensor, Tensor]) -> Tensor:
    """Return the same with V1 through the target and V2, V3 through the online branch: the summand of its mirror."""
    first, second = online
    return -2 * cosines(first, target.detach()) - 2 * cosines(second, target.detach())


def keep_rate(start: float, step: int, steps: int) -> float:
    """Return m = 1 - (1 - start) (cos(pi k / K) + 1) / 2, the target's own share in update k of K."""
    return 1 - (1 - start) * (math.cos(math.pi * step / steps) + 1) / 2


def moments(projections: Tensor) -> Tensor:
    """Return count, sums and sums of squares `[1 + 2 D]` of unit vectors along `projections` `[R, D]`: they add up."""
    rows = unit(projections.detach())
    return torch.cat([rows.new_full((1,), len(rows)), rows.sum(dim=0), rows.square().sum(dim=0)])


def spread(sums: Tensor) -> float:
    """Return the mean standard deviation over dimensions, from the `moments` of all ranks, as a share of 1 / sqrt(D).

    Unit vectors in all directions have 1, a collapse to one point has 0.
    """
    dim = (len(sums) - 1) // 2
    count, total, squares = sums[0].clamp(min=1), sums[1 : dim + 1], sums[dim + 1 :]
    variance = (squares / count - (total / count).square()).clamp(min=0)
    return float(variance.sqrt().mean() * math.sqrt(dim))
