"""An image classifier: one of six networks, and a linear layer from its features to class logits.

Whatever is random in training comes from the generator that a call hands in, so that a step can be repeated, and two
models can be shown the same draws. No generator is kept: a model can be copied and saved at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from raydet.config.backbone import IMAGENET
from raydet.config.classifier import ClassifierConfig
from raydet.vision.classifiers.conv_large import ConvLarge
from raydet.vision.classifiers.efficientnet import EfficientNetLite
from raydet.vision.classifiers.layers import noisy
from raydet.vision.classifiers.lenet import LeNet2d
from raydet.vision.classifiers.resnet import ResNet18
from raydet.vision.classifiers.shake_shake import ShakeShake26
from raydet.vision.classifiers.small_conv import SmallConv
from raydet.vision.pretrained import efficientnet_tensors, is_skipped, torchvision_tensors
from raydet.vision.weights import read_tensors

Network = ShakeShake26 | ConvLarge | ResNet18 | EfficientNetLite | LeNet2d | SmallConv


@dataclass(frozen=True, slots=True, eq=False)
class Classified:
    """What a classifier says about a batch of B images."""

    logits: Tensor  # [B, N] float32, also under autocast
    features: Tensor  # [B, F] float32: what the last layer makes the logits of


class Classifier(nn.Module):
    """Images in, class logits out."""

    def __init__(self, config: ClassifierConfig, num_classes: int) -> None:
        """Build a classifier for `num_classes` classes; initial weights come from torch's global generator.

        Raises CheckpointError where `config.weights` cannot be used.
        """
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.network = _network(config)
        self.last = nn.Linear(self.network.width, num_classes)
        nn.init.zeros_(self.last.bias)
        if isinstance(self.network, ResNet18 | EfficientNetLite) and config.weights is not None and not is_skipped():
            self.network.load(_tensors(config.network, config.weights), self.last, config.weights)
        # They belong to the configuration, not to what was learned.
        self.register_buffer("mean", torch.tensor(config.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(config.std)[:, None, None], persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def exported(self) -> dict[str, Tensor]:
        """Return the weights: a ResNet-18's by torchvision's names, an EfficientNet's by its published file's, the
        others' by their own."""
        return {self._published(name): value for name, value in self.state_dict().items()}

    def load_exported(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights by the names of `exported`. Raises RuntimeError where they are not this model's."""
        own = {self._published(name): name for name in self.state_dict()}
        self.load_state_dict({own.get(name, name): value for name, value in weights.items()})

    def _published(self, name: str) -> str:
        """Return what a weight is called in the files that publish its network."""
        last = "_fc." if isinstance(self.network, EfficientNetLite) else "fc."
        if not isinstance(self.network, EfficientNetLite | ResNet18):
            return name
        return name.replace("network.body.", "").replace("last.", last)

    def forward(self, pixels: Tensor, rng: torch.Generator | None = None) -> Classified:
        """Classify `pixels` uint8 `[B, 3, S, S]` RGB, on the model's device.

        In training mode all random draws come from `rng`, a generator on that device; evaluation draws nothing. Raises
        ValueError where a network that draws trains without `rng`. `config.least_size` says how small images may be.
        """
        x = self.normalised(pixels)
        if self.training:
            x = noisy(x, self.config.input_noise, rng)
        features = self.network(x, rng).float()
        # The last layer costs next to nothing, and pseudo-labels are made of its logits: it keeps full precision.
        with torch.autocast(pixels.device.type, enabled=False):
            return Classified(self.last(features), features)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return what the network sees, but for noise: `(pixels / 255 - mean) / std`, float32 `[B, 3, S, S]`."""
        assert pixels.dtype == torch.uint8, f"images are uint8, got {pixels.dtype}"
        return (pixels.float() / 255 - self.mean) / self.std


def _tensors(network: str, weights: str) -> dict[str, Tensor]:
    """Return what `weights` names."""
    if weights != IMAGENET:
        return read_tensors(Path(weights))
    return efficientnet_tensors() if network == "efficientnet_lite0" else torchvision_tensors(network)


def _network(config: ClassifierConfig) -> Network:
    match config.network:
        case "shake_shake26":
            return ShakeShake26()
        case "conv_large":
            return ConvLarge(config.norm, config.dropout)
        case "resnet18":
            return ResNet18()
        case "efficientnet_lite0":
            return EfficientNetLite()
        case "lenet2d":
            return LeNet2d()
        case "small_conv":
            return SmallConv(config.channels, config.norm)
