"""Norm layers by name, and batch norms whose statistics are those of all workers' images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

Norm = Callable[[int], nn.Module]
"""From a number of channels to a norm layer."""

GROUPS = 32


def norm_layer(kind: Literal["none", "batch", "group"], *, is_frozen: bool = False) -> Norm | None:
    """Return the maker of a norm layer for maps `[N, C, H, W]`; None for none. Frozen batch norms stay as loaded."""
    batch = FrozenBatchNorm2d if is_frozen else nn.BatchNorm2d
    makers: dict[str, Norm | None] = {"none": None, "batch": batch, "group": _group}
    return makers[kind]


def _group(channels: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks. What one rank adds, all ranks' losses see: gradients are summed too."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        found = values.clone()
        dist.all_reduce(found)
        return found

    @staticmethod
    def backward(ctx: FunctionCtx, slope: Tensor) -> Tensor:
        found = slope.contiguous().clone()
        dist.all_reduce(found)
        return found


class _Synced(nn.modules.batchnorm._BatchNorm):
    """A batch norm that in training uses the statistics of all ranks' inputs, on any device: torch's own
    `SyncBatchNorm` is for GPUs only. With one rank it is the plain batch norm, to the bit. Ranks may have different
    numbers of rows, and all must call it equally often."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised input, `[N, C, ...]` as it came."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            found: Tensor = super().forward(x)
            return found
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        axes = [0, *range(2, x.ndim)]
        # About the running mean, which all ranks share: sums of squares of numbers near 0 lose no digits.
        shift = self.running_mean.clone()
        shape = [1, -1, *[1] * (x.ndim - 2)]
        moved = x.float() - shift.reshape(shape)
        own = [moved.new_tensor([x.numel() // x.shape[1]]), moved.sum(axes), moved.square().sum(axes)]
        count, total, squares = torch.split(_SumOverRanks.apply(torch.cat(own)), [1, x.shape[1], x.shape[1]])
        mean = total / count
        var = (squares / count - mean.square()).clamp(min=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean + shift, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1).clamp(min=1)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        found = (moved - mean.reshape(shape)) * torch.rsqrt(var + self.eps).reshape(shape)
        if self.affine:
            found = found * self.weight.reshape(shape) + self.bias.reshape(shape)
        return found.to(x.dtype)


class SyncedBatchNorm1d(_Synced, nn.BatchNorm1d):
    """For rows `[N, C]`."""


class SyncedBatchNorm2d(_Synced, nn.BatchNorm2d):
    """For maps `[N, C, H, W]`."""


def synced(model: nn.Module) -> nn.Module:
    """Let every batch norm of a model use all ranks' statistics; returns the model, whose tensors keep their names."""
    for module in model.modules():
        for kind, other in ((nn.BatchNorm1d, SyncedBatchNorm1d), (nn.BatchNorm2d, SyncedBatchNorm2d)):
            if type(module) is kind:
                module.__class__ = other
    return model


def projection_norm(kind: Literal["none", "batch", "group"], width: int) -> nn.Module:
    """Return the norm of a hidden layer `[R, width]`; layer norm where norms are to see one row at a time."""
    return nn.BatchNorm1d(width) if kind == "batch" else nn.LayerNorm(width)


def unit(rows: Tensor) -> Tensor:
    """Return rows `[R, D]` divided by their length, float32."""
    return F.normalize(rows.float(), dim=1)
