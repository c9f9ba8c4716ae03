"""Four convolutions, for small images on a CPU."""

from __future__ import annotations

from torch import Generator, Tensor, nn

from raydet.vision.classifiers.layers import Norm, initialise, norm


class SmallConv(nn.Module):
    """Convolutions with norm and ReLU at strides 2, 2, 4 and 8, and an average over the image.

    The first one has stride 2: at full resolution the second would cost more than all the others together.
    """

    def __init__(self, channels: tuple[int, ...], normalisation: Norm) -> None:
        super().__init__()
        first, second, third, fourth = channels
        self.width = fourth
        self.layers = nn.Sequential(
            *_conv(3, first, normalisation, stride=2),
            *_conv(first, second, normalisation),
            nn.MaxPool2d(2),
            *_conv(second, third, normalisation),
            nn.MaxPool2d(2),
            *_conv(third, fourth, normalisation),
        )
        initialise(self)

    def forward(self, x: Tensor, rng: Generator | None) -> Tensor:
        """Return features `[B, channels[3]]` of pixels `[B, 3, S, S]`; draws nothing."""
        features: Tensor = self.layers(x).mean(dim=(2, 3))
        return features


def _conv(inputs: int, outputs: int, kind: Norm, *, stride: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return conv, norm(kind, outputs), nn.ReLU(inplace=True)
