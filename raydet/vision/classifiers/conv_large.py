"""The 13-layer network of Temporal Ensembling and Mean Teacher: R2-D2's for CIFAR-100 and SVHN."""

from __future__ import annotations

from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from raydet.vision.classifiers.layers import Norm, dropout, initialise, norm

SLOPE = 0.1  # of the leaky ReLUs below zero


class ConvLarge(nn.Module):
    """Three groups of three convolutions, with pooling and dropout between them, and an average over the image.

    A 32 px image ends as a 6 x 6 map before the average; larger images end as larger maps. With `weight` as
    normalisation every filter is a direction and a length (weight norm), and starts as He et al. (2015) draw it;
    Temporal Ensembling, whose text says so, has code that sets the lengths by a first batch.
    """

    width = 128

    def __init__(self, normalisation: Norm, dropout_share: float) -> None:
        super().__init__()
        self.dropout_share = dropout_share
        self.first = nn.Sequential(
            *_conv(3, 128, 3, normalisation), *_conv(128, 128, 3, normalisation), *_conv(128, 128, 3, normalisation)
        )
        self.second = nn.Sequential(
            *_conv(128, 256, 3, normalisation), *_conv(256, 256, 3, normalisation), *_conv(256, 256, 3, normalisation)
        )
        self.third = nn.Sequential(
            *_conv(256, 512, 3, normalisation, padding=0),
            *_conv(512, 256, 1, normalisation),
            *_conv(256, 128, 1, normalisation),
        )
        initialise(self)
        if normalisation == "weight":
            for module in list(self.modules()):
                if isinstance(module, nn.Conv2d):
                    weight_norm(module)

    def forward(self, x: Tensor, rng: Generator | None) -> Tensor:
        """Return features `[B, 128]` of pixels `[B, 3, S, S]`."""
        for group in (self.first, self.second):
            x = F.max_pool2d(group(x), 2)
            if self.training:
                x = dropout(x, self.dropout_share, rng)
        features: Tensor = self.third(x).mean(dim=(2, 3))
        return features


def _conv(inputs: int, outputs: int, size: int, kind: Norm, *, padding: int | None = None) -> tuple[nn.Module, ...]:
    """A convolution that keeps the resolution unless `padding` says otherwise, its norm and its leaky ReLU."""
    padded = size // 2 if padding is None else padding
    conv = nn.Conv2d(inputs, outputs, size, padding=padded, bias=False)
    return conv, norm(kind, outputs), nn.LeakyReLU(SLOPE, inplace=True)
