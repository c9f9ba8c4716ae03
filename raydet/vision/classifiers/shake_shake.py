"""Shake-Shake 26 2x96d (Gastaldi, 2017): a residual network whose blocks mix two branches by a random gate.

As in the network that Mean Teacher and R2-D2 train on CIFAR-10, the stem has no norm, a shortcut of a stage's first
block subsamples the image twice, and no ReLU precedes the average over the image. Their release has biases in front of
two batch norms as well, which cannot change anything; here there are none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from raydet.vision.classifiers.layers import gates, initialise

STEM_CHANNELS = 16
STAGE_CHANNELS = (96, 192, 384)
BLOCKS_PER_STAGE = 4


class ShakeShake26(nn.Module):
    """Twelve blocks in three stages; the second and third stage halve the resolution."""

    width = STAGE_CHANNELS[-1]

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, STEM_CHANNELS, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        inputs = STEM_CHANNELS
        for stage, outputs in enumerate(STAGE_CHANNELS):
            for i in range(BLOCKS_PER_STAGE):
                self.blocks.append(Block(inputs, outputs, halve=stage > 0 and i == 0))
                inputs = outputs
        initialise(self)

    def forward(self, x: Tensor, rng: Generator | None) -> Tensor:
        """Return features `[B, 384]` of pixels `[B, 3, S, S]`."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, rng)
        return x.mean(dim=(2, 3))


class Block(nn.Module):
    """The shortcut, plus two branches mixed by a gate: random for each image in training, one half in evaluation."""

    def __init__(self, inputs: int, outputs: int, *, halve: bool) -> None:
        super().__init__()
        stride = 2 if halve else 1
        self.a, self.b = _branch(inputs, outputs, stride), _branch(inputs, outputs, stride)
        self.shortcut: nn.Module = nn.Identity()
        if halve:
            self.shortcut = ShiftedHalves(inputs, outputs)
        elif inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor, rng: Generator | None) -> Tensor:
        """Return `[B, outputs, S, S]`, S halved where the block does that."""
        active = F.relu(x)
        a, b = self.a(active), self.b(active)
        mixed = shake(a, b, *gates(a, rng)) if self.training else (a + b) / 2
        residual: Tensor = self.shortcut(x)
        return residual + mixed


def _branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A branch behind its first ReLU, which both branches share."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    )


class ShiftedHalves(nn.Module):
    """A shortcut to half the resolution: every other pixel, and every other pixel one further down and right."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # Two groups: each half of the outputs sees one of the two subsampled images.
        self.mix = nn.Conv2d(2 * inputs, outputs, 1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[B, outputs, ceil(H / 2), ceil(W / 2)]`."""
        x = F.relu(x)
        shifted = F.pad(x, (-1, 1, -1, 1))  # the zeros at the end are read only where a side is odd
        halves = torch.cat((x[:, :, ::2, ::2], shifted[:, :, ::2, ::2]), dim=1)
        mixed: Tensor = self.norm(self.mix(halves))
        return mixed


def shake(a: Tensor, b: Tensor, forward_gate: Tensor, backward_gate: Tensor) -> Tensor:
    """Return `gate * a + (1 - gate) * b` with one gate for the values and another for the gradients."""
    mixed: Tensor = _Shake.apply(a, b, forward_gate, backward_gate)
    return mixed


class _Shake(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, forward_gate: Tensor, backward_gate: Tensor) -> Tensor:
        ctx.save_for_backward(backward_gate)
        return forward_gate * a + (1 - forward_gate) * b

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gate,) = ctx.saved_tensors
        return gate * grad, (1 - gate) * grad, None, None
