"""Depthwise convolutions whose backward pass is raydet's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from raydet.vision.depthwise import depthwise_conv


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return images `[2, 3, 11, 9]`, kernels 5 x 5 and biases, all of which want a gradient."""
    rng = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 11, 9), (3, 1, 5, 5), (3,))
    image, kernels, bias = (torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype) for shape in shapes)
    image = image.contiguous(memory_format=torch.channels_last)
    return image.requires_grad_(), kernels.requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize(("stride", "padding"), [(1, 2), (1, 0), (1, 1), (2, 2), (2, 0)])
def test_values_and_gradients_are_those_of_pytorchs_convolution(stride: int, padding: int):
    image, kernels, bias = inputs(torch.float64)
    found = depthwise_conv(image, kernels, bias, stride, padding)
    expected = F.conv2d(image, kernels, bias, stride, padding, groups=3)
    torch.testing.assert_close(found, expected)
    wanted = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theirs = torch.autograd.grad(expected, [image, kernels, bias], wanted)
    # With a stride the gradients are summed in float32.
    accuracy = {"rtol": 1e-10, "atol": 1e-10} if stride == 1 else {"rtol": 1e-5, "atol": 1e-5}
    for ours, other in zip(torch.autograd.grad(found, [image, kernels, bias], wanted), theirs, strict=True):
        torch.testing.assert_close(ours, other, **accuracy)


def test_by_hand():
    # One 5 x 5 image of ones with a border of two: kernel [i, j] meets as many pixels as it can be placed on, here
    # (5 - |i - 2|) * (5 - |j - 2|): corners 3 * 3 = 9, the middle 5 * 5 = 25.
    image = torch.ones(1, 1, 5, 5)
    kernel = torch.ones(1, 1, 5, 5, requires_grad=True)
    depthwise_conv(image, kernel, None, 1, 2).sum().backward()
    assert kernel.grad is not None
    assert kernel.grad[0, 0].tolist() == [
        [9, 12, 15, 12, 9],
        [12, 16, 20, 16, 12],
        [15, 20, 25, 20, 15],
        [12, 16, 20, 16, 12],
        [9, 12, 15, 12, 9],
    ]


@pytest.mark.parametrize("stride", [1, 2])
def test_under_autocast_gradients_come_in_the_precision_of_their_tensors(stride: int):
    image, kernels, bias = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = depthwise_conv(image, kernels, bias, stride, 2)
    assert found.dtype == torch.bfloat16
    exact = F.conv2d(image, kernels, bias, stride, 2, groups=3)
    ours = torch.autograd.grad(found.float().square().sum(), [image, kernels, bias])
    theirs = torch.autograd.grad(exact.square().sum(), [image, kernels, bias])
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).abs().max() < 0.02 * other.abs().max()  # bf16 has 8 bits: steps of 0.4 %


def test_only_the_gradients_that_are_wanted_are_computed():
    image, kernels, _ = inputs(torch.float32)
    depthwise_conv(image.detach(), kernels, None, 1, 2).sum().backward()
    assert kernels.grad is not None
    depthwise_conv(image, kernels.detach(), None, 1, 2).sum().backward()
    assert image.grad is not None
