"""LARS (You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks", arXiv 1708.03888): the step of each
layer is a fixed share of the size of its weights.

    local = trust * |w| / (|g| + decay * |w|)                                                                 (6)
    v <- momentum * v + local * (g + decay * w);   w <- w - lr * v                                (Algorithm 1)

The learning rate is left out of v, as in PyTorch's SGD: the two differ only in steps in which it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lars(torch.optim.Optimizer):
    """SGD with momentum whose gradients are scaled layer by layer.

    Groups of parameters with `adapts: False` (biases, norm layers) take SGD's steps. A layer whose weights or gradient
    are all zero does so too. No step waits for the device. Raises ValueError for a group that adapts and has matrices
    and vectors in it: biases would take steps by their own size, which is near 0, and decay.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float, trust: float, weight_decay: float = 0.0
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "adapts": True})
        self.trust = trust
        for number, group in enumerate(self.param_groups):
            ranks = {weight.ndim > 1 for weight in group["params"]}
            if group["adapts"] and len(ranks) > 1:
                raise ValueError(
                    f"group {number} of LARS has both matrices and vectors (biases, norm layers): give these a group "
                    f"of their own with adapts=False and weight_decay=0"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; `closure` computes the loss anew, as for every optimiser of PyTorch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._step(weights, group)
        return loss

    def _step(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        decay = group["weight_decay"]
        grads = [weight.grad for weight in weights if weight.grad is not None]
        local = self._local(weights, grads, decay) if group["adapts"] else None
        if decay:
            grads = list(torch._foreach_add(grads, weights, alpha=decay))
        if local is not None:
            grads = list(torch._foreach_mul(grads, local))
        if momentum := group["momentum"]:
            for weight in weights:
                if "momentum_buffer" not in self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            grads, moved = [self.state[weight]["momentum_buffer"] for weight in weights], grads
            torch._foreach_mul_(grads, momentum)
            torch._foreach_add_(grads, moved)
        torch._foreach_add_(weights, grads, alpha=-group["lr"])

    def _local(self, weights: list[Tensor], grads: list[Tensor], decay: float) -> tuple[Tensor, ...]:
        """Return the factor of each layer, on the device.                                                    (6)"""
        sizes, slopes = torch.stack(torch._foreach_norm(weights)), torch.stack(torch._foreach_norm(grads))
        factors = self.trust * sizes / (slopes + decay * sizes)
        return torch.where((sizes > 0) & (slopes > 0), factors, torch.ones_like(factors)).unbind()
