"""LeNet with a feature of two numbers, which can be drawn: the toy example of R2-D2."""

from __future__ import annotations

from torch import Generator, Tensor, nn

from raydet.vision.classifiers.layers import initialise


class LeNet2d(nn.Module):
    """LeNet (Caffe's widths) and one more linear layer, to two features.

    28 px images (MNIST) reach the first linear layer as 4 x 4 maps. Images of any other size do so too: the second
    pooling always leaves 4 x 4.
    """

    width = 2

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 20, 5),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, 5),
            nn.AdaptiveMaxPool2d(4),
            nn.Flatten(),
            nn.Linear(50 * 4 * 4, 500),
            nn.ReLU(inplace=True),
            nn.Linear(500, self.width),
        )
        initialise(self)

    def forward(self, x: Tensor, rng: Generator | None) -> Tensor:
        """Return features `[B, 2]` of pixels `[B, 3, S, S]`; draws nothing."""
        features: Tensor = self.layers(x)
        return features
