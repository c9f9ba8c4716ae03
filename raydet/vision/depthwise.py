"""Depthwise convolutions with wide kernels, whose backward pass on a CPU is written here.

PyTorch's takes 5 x 5 kernels through a reference implementation there: in bf16 a hundred times as long as the forward
pass (benchmarks/step.md). The gradients are those of the same convolution, so they can be said with fast operations:

    dL/dx = the gradient of the output, convolved with the kernel turned by 180 degrees
    dL/dw = for every three columns of the kernel, that of a kernel of three columns; those are fast
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Return `F.conv2d` of `x` `[N, C, H, W]` with one kernel per channel, `weight` `[C, 1, k, k]`, `bias` `[C]`."""
    if x.device.type != "cpu" or weight.shape[-1] <= 3 or not torch.is_grad_enabled():
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))
    done: Tensor = _Depthwise.apply(x, weight, bias, stride, padding)
    return done


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        out = F.conv2d(x, weight, bias, stride, padding, groups=len(weight))
        # What is kept is in the precision of the result: under autocast half of x, and what the convolution saw.
        ctx.save_for_backward(x.to(out.dtype), weight)
        ctx.stride, ctx.padding, ctx.dtype = stride, padding, x.dtype
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        how = ctx.stride, ctx.padding
        return (
            _of_input(x, grad, weight, *how).to(ctx.dtype) if wants_x else None,
            _of_weight(x, grad, weight, *how).to(weight.dtype) if wants_weight else None,
            grad.sum((0, 2, 3), dtype=weight.dtype) if wants_bias else None,
            None,
            None,
        )


def _of_input(x: Tensor, grad: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return the gradient `[N, C, H, W]` of the input."""
    if stride > 1:  # with holes in the shifts, PyTorch's own is as fast, in float32
        return _gradients(grad.float(), x.float(), weight.float(), stride, (padding, padding), of_input=True)[0]
    turned = weight.flip(2, 3).to(grad.dtype)
    return F.conv2d(grad, turned, None, 1, weight.shape[-1] - 1 - padding, groups=len(weight))


def _of_weight(x: Tensor, grad: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return the gradient `[C, 1, k, k]` of the kernels, summed in float32 or better.

    Three columns of the kernels at a time: that is what the fast implementation takes, whatever their height.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    x, grad = x.to(exact), grad.to(exact)
    side, span = weight.shape[-1], (grad.shape[-1] - 1) * stride + 3
    found, three = x.new_empty(weight.shape), x.new_empty(len(weight), 1, side, 3)
    for first in (min(column, side - 3) for column in range(0, side - 1, 2)):
        left = padding - first
        seen = F.pad(x, (left, span - left - x.shape[-1]))  # what these columns meet
        found[..., first : first + 3] = _gradients(grad, seen, three, stride, (padding, 0), of_input=False)[1]
    return found


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int], *, of_input: bool
) -> tuple[Tensor, ...]:
    """Return PyTorch's gradients of input and kernels, of which one is asked for."""
    mask, groups = [of_input, not of_input, False], len(weight)
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride, stride], list(padding), [1, 1], False, [0, 0], groups, mask
    )
    return found
