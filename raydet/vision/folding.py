"""Frozen norms folded into the convolutions before them.

A norm whose statistics do not move is a factor and a summand per channel: `(W x - m) s + b = (W s) x + (b - m s)`. In
the weights they cost a multiplication per weight; on the maps, two per pixel and channel, and a map more to keep for
the backward pass. The result is the same up to rounding, gradients included, and so are all names in the state dict.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d


class FoldedConv(nn.Conv2d):
    """A convolution without bias that does its norm's work too."""

    norms: tuple[FrozenBatchNorm2d]  # in a tuple: the norm stays a child of the network, and keeps its name there

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        scale, shift = scale_and_shift(*self.norms)
        folded: Tensor = super()._conv_forward(input, weight * scale[:, None, None, None], shift)
        return folded


class FoldedNorm(FrozenBatchNorm2d):  # type: ignore[misc]  # torchvision is not typed
    """The statistics of a norm whose convolution does its work."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`: it is normalised already."""
        return x


def scale_and_shift(norm: FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return what the norm multiplies each channel by, and adds to it then, `[C]` each."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def fold_frozen_norms(
    network: nn.Module, names: Iterable[tuple[str, str]], kind: type[FoldedConv] = FoldedConv
) -> None:
    """Fold, in place, each frozen norm into the convolution before it; `names` are pairs (convolution, norm).

    Norms other than torchvision's FrozenBatchNorm2d are left alone. A module keeps its parameters and buffers: only
    what its forward does changes, hence its class; `kind` is the convolutions' new one.
    """
    for conv_name, norm_name in names:
        conv, norm = network.get_submodule(conv_name), network.get_submodule(norm_name)
        if type(norm) is FrozenBatchNorm2d:
            assert isinstance(conv, nn.Conv2d) and conv.bias is None, f"{conv_name} is no convolution without bias"
            conv.__class__ = kind
            conv.norms = (norm,)  # type: ignore[assignment]  # a tuple, see above
            norm.__class__ = FoldedNorm
