"""Depthwise convolutions with wide kernels, whose backward pass on a CPU is written here.

PyTorch's takes 5 x 5 kernels through a reference implementation there: in bf16 a hundred times as long as the forward
pass (benchmarks/step.md). The gradients are those of the same convolution, so they can be said with fast operations:

    dL/dx = the gradient of the output, convolved with the kernel turned by 180 degrees
    dL/dw[i, j] = sum over images and pixels of x shifted by (i, j), times the gradient of the output
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
        of_bias = grad.sum((0, 2, 3), dtype=weight.dtype) if wants_bias else None
        if ctx.stride == 1:
            of_x = _of_input(grad, weight, ctx.padding) if wants_x else None
            of_weight = _of_weight(x, grad, weight, ctx.padding) if wants_weight else None
        else:  # with holes in the shifts, PyTorch's own is as fast, in float32
            mask = [wants_x, wants_weight, False]
            sizes = [ctx.stride] * 2, [ctx.padding] * 2
            of_x, of_weight, _ = torch.ops.aten.convolution_backward(
                grad.float(), x.float(), weight.float(), None, *sizes, [1, 1], False, [0, 0], len(weight), mask
            )
        return (
            None if of_x is None else of_x.to(ctx.dtype),
            None if of_weight is None else of_weight.to(weight.dtype),
            of_bias,
            None,
            None,
        )


def _of_input(grad: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Return the gradient `[N, C, H, W]` of the input, for stride 1."""
    turned = weight.flip(2, 3).to(grad.dtype)
    return F.conv2d(grad, turned, None, 1, weight.shape[-1] - 1 - padding, groups=len(weight))


def _of_weight(x: Tensor, grad: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Return the gradient `[C, 1, k, k]` of the kernels, for stride 1, summed in float32 or better."""
    exact = torch.promote_types(x.dtype, torch.float32)
    padded = F.pad(x.to(exact), (padding,) * 4).permute(0, 2, 3, 1)  # [N, H, W, C]: channels next to each other
    wanted = grad.to(exact).permute(0, 2, 3, 1).contiguous()
    height, width = wanted.shape[1:3]
    side = weight.shape[-1]
    product, sums = torch.empty_like(wanted), wanted.new_empty(side, side, len(weight))
    for i in range(side):
        for j in range(side):
            torch.mul(padded[:, i : i + height, j : j + width], wanted, out=product)
            torch.sum(product, (0, 1, 2), out=sums[i, j])
    return sums.permute(2, 0, 1)[:, None]
