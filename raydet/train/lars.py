"""LARS: layer-wise adaptive rate scaling, for large batches and pre-training (You et al., arXiv 1708.03888)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

EPS = 1e-8  # keeps the factor of a vanishing gradient finite


class Lars(torch.optim.Optimizer):
    """SGD with momentum whose step of each weight is scaled by that weight's own norm.

    `factor = trust |w| / (|g| + weight_decay |w|)`, the paper's Eq. 6; `v <- momentum v + factor (g + weight_decay w)`;
    `w <- w - lr v`. The rate is outside the momentum, as SoCo's and timm's code have it: the paper has it inside, which is
    the same for a constant rate. Biases and all else of one dimension take plain SGD's step: no decay, factor 1. That
    is decided per parameter, so one group of all parameters is as good as any. A weight or a gradient that is zero
    has factor 1 too: there is no ratio.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        """`trust` is the share of a weight's norm that a step of rate 1 moves it by, without momentum."""
        if lr < 0 or not 0 <= momentum <= 1 or weight_decay < 0 or trust <= 0:
            raise ValueError(
                f"LARS wants lr >= 0, momentum in [0, 1], weight_decay >= 0 and trust > 0; given are lr={lr}, "
                f"momentum={momentum}, weight_decay={weight_decay}, trust={trust}"
            )
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient; the gradients themselves stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            for is_plain in (False, True):
                if chosen := [p for p in given if (p.ndim <= 1) == is_plain]:
                    self._move(chosen, group, is_plain=is_plain)
        return loss

    def _move(self, params: list[Tensor], group: dict[str, Any], *, is_plain: bool) -> None:
        gradients: list[Tensor] = [p.grad for p in params if p.grad is not None]
        if is_plain:
            updates = [gradient.clone() for gradient in gradients]
        else:
            decay = group["weight_decay"]
            updates = list(torch._foreach_add(gradients, params, alpha=decay))
            torch._foreach_mul_(updates, factors(params, gradients, decay, group["trust"]))
        if group["momentum"] > 0:
            updates = [
                self._remembered(p, update, group["momentum"]) for p, update in zip(params, updates, strict=True)
            ]
        torch._foreach_add_(params, updates, alpha=-group["lr"])

    def _remembered(self, parameter: Tensor, update: Tensor, momentum: float) -> Tensor:
        """Return the running sum of updates, with this one in it."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = update
        else:
            state["momentum_buffer"].mul_(momentum).add_(update)
        found: Tensor = state["momentum_buffer"]
        return found


def factors(weights: list[Tensor], gradients: list[Tensor], weight_decay: float, trust: float) -> list[Tensor]:
    """Return the factor of each weight's step, scalars on its device: 1 where weight or gradient is zero."""
    lengths = torch.stack(list(torch._foreach_norm(weights)))  # |w|
    slopes = torch.stack(list(torch._foreach_norm(gradients)))  # |g|
    ratios = trust * lengths / (slopes + weight_decay * lengths + EPS)
    return list(torch.where((lengths > 0) & (slopes > 0), ratios, torch.ones_like(ratios)).unbind())
