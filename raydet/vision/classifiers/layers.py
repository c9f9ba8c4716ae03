"""What the networks share: normalisation, initial weights, and random layers that draw from a given generator.

Randomness is an argument, not a state: what a training step draws is a function of the generator it is handed.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor, nn

Norm = Literal["batch", "group", "weight"]
MEAN_MOMENTUM = 0.001  # Temporal Ensembling keeps 0.999 of the running mean


def norm(kind: Norm, channels: int) -> nn.Module:
    """Return batch norm, group norm with eight groups (fewer where eight do not divide the channels), or what stands
    behind a convolution with weight norm."""
    if kind == "weight":
        return MeanOnlyNorm(channels)
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(math.gcd(8, channels), channels)


class MeanOnlyNorm(nn.modules.batchnorm._BatchNorm):
    """Mean-only batch norm (Salimans and Kingma, 2016): `x - mean + bias`, channel by channel, no division.

    It goes with weight norm, which bounds the scale instead. The running mean is that of all batches so far, and from
    the thousandth on a moving one; Temporal Ensembling's starts at 0 and is as good as the same then.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=MEAN_MOMENTUM, affine=False)
        self.running_var = None
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return `[B, C, H, W]`."""
        assert self.running_mean is not None and self.num_batches_tracked is not None
        mean = self.running_mean
        if self.training:
            mean = x.float().mean(dim=(0, 2, 3))
            with torch.no_grad():
                self.num_batches_tracked += 1
                share = (1 / self.num_batches_tracked.float()).clamp(min=MEAN_MOMENTUM)
                self.running_mean += share * (mean.detach() - self.running_mean)
        shift: Tensor = (self.bias - mean)[:, None, None]
        return x + shift.to(x.dtype)


def initialise(network: nn.Module) -> None:
    """Draw initial weights from torch's global generator: He et al. (2015) for convolutions; biases are zero.

    The weights of linear layers stay as torch draws them, uniformly from +-1 / sqrt(inputs).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def gates(x: Tensor, rng: Generator | None) -> tuple[Tensor, Tensor]:
    """Draw two uniform numbers for each image of `x` `[B, C, H, W]`, in two tensors `[B, 1, 1, 1]` of its dtype."""
    drawn = torch.rand(2, len(x), 1, 1, 1, generator=needed(rng, "Shake-Shake"), device=x.device)
    forward, backward = drawn.to(x.dtype)
    return forward, backward


def dropout(x: Tensor, share: float, rng: Generator | None) -> Tensor:
    """Zero each value with probability `share` in [0, 1), and scale the others so that the expectation stays."""
    if share == 0:
        return x
    kept = torch.empty(x.shape, dtype=torch.bool, device=x.device)
    kept.bernoulli_(1 - share, generator=needed(rng, "dropout"))
    return x * kept / (1 - share)


def noisy(x: Tensor, std: float, rng: Generator | None) -> Tensor:
    """Add Gaussian noise of standard deviation `std`."""
    if std == 0:
        return x
    return x + std * torch.randn(x.shape, generator=needed(rng, "input noise"), device=x.device)


def needed(rng: Generator | None, purpose: str) -> Generator:
    """Return the generator, or raise ValueError where a random layer trains without one."""
    if rng is None:
        raise ValueError(f"{purpose} draws random numbers in training: call the classifier with a generator `rng`")
    return rng
