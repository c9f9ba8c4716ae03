"""The image classifier. Defaults: what R2-D2 trains on CIFAR-10."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydet.config.base import ModelSection, PositiveInt, Weight

Share = Annotated[float, Field(ge=0, le=1)]
Spread = Annotated[float, Field(gt=0, le=1)]


LEAST_SIZES = {"shake_shake26": 8, "conv_large": 12, "resnet18": 64, "lenet2d": 20, "small_conv": 8}
"""Network -> the smallest side of an image (pixels). `conv_large`: two halvings leave 3 of 12, its last convolution 1;
LeNet: two leave 4 of 20; ResNet-18: five leave 2 of 64, which is little enough."""


class ClassifierConfig(ModelSection):
    """A network that gives every image one vector of class logits."""

    network: Literal["shake_shake26", "conv_large", "resnet18", "lenet2d", "small_conv"] = "shake_shake26"
    """`shake_shake26`: Shake-Shake 26 2x96d (CIFAR-10). `conv_large`: the 13-layer network of Mean Teacher (CIFAR-100,
    SVHN). `resnet18` (ImageNet). `lenet2d`: LeNet with a two-dimensional feature, for looking at. `small_conv`: four
    convolutions, for small images on a CPU."""
    norm: Literal["batch", "group"] = "batch"
    """Normalisation. With `group` an image's logits do not depend on the images beside it. `shake_shake26`, `resnet18`
    and `lenet2d` (which has none) are published with `batch`."""
    channels: tuple[PositiveInt, ...] = (32, 64, 96, 128)
    """`small_conv`: channels of its four convolutions."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """`conv_large`: share of the feature map's values dropped behind each of the first two blocks."""
    input_noise: Weight = 0.0
    """Standard deviation of Gaussian noise added to the normalised pixels in training (Temporal Ensembling: 0.15)."""
    mean: tuple[Share, Share, Share] = (0.4914, 0.4822, 0.4465)
    """Mean of red, green, blue over the data, in [0, 1]; the default is CIFAR-10's."""
    std: tuple[Spread, Spread, Spread] = (0.247, 0.2435, 0.2616)
    """Standard deviation of red, green, blue, in [0, 1]."""
    weights: str | None = None
    """`resnet18`: local safetensors (or torch `weights_only`-loadable) file of ImageNet weights with torchvision's
    names; the last layer is left out where the number of classes differs."""

    @property
    def least_size(self) -> int:
        """The smallest side of an image (pixels) that the network takes."""
        return LEAST_SIZES[self.network]

    @model_validator(mode="after")
    def _fits(self) -> ClassifierConfig:
        if self.weights is not None and self.network != "resnet18":
            raise ValueError(f"network {self.network} trains from scratch: remove `weights`, or use resnet18")
        if self.norm == "group" and self.network in ("resnet18", "lenet2d", "shake_shake26"):
            raise ValueError(
                f"network {self.network} has no group norm: remove `norm`, or use conv_large or small_conv"
            )
        if len(self.channels) != 4:
            raise ValueError(f"channels wants four numbers, got {len(self.channels)}")
        return self
