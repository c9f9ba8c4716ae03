"""The image classifier. Defaults: what R2-D2 trains on CIFAR-10."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from raydet.config.backbone import HOW_TO_CHOOSE, IMAGENET
from raydet.config.base import ModelSection, PositiveInt, Weight
from raydet.config.paths import PathText

Share = Annotated[float, Field(ge=0, le=1)]
Spread = Annotated[float, Field(gt=0, le=1)]


LEAST_SIZES = {
    "shake_shake26": 8,
    "conv_large": 12,
    "resnet18": 64,
    "efficientnet_lite0": 64,
    "lenet2d": 20,
    "small_conv": 8,
}
"""Network -> the smallest side of an image (pixels). `conv_large`: two halvings leave 3 of 12, its last convolution 1;
LeNet: two leave 4 of 20; ResNet-18 and EfficientNet-Lite0: five leave 2 of 64, which is little enough."""
PUBLISHED_INPUT = {
    "resnet18": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "efficientnet_lite0": ((0.498, 0.498, 0.498), (0.502, 0.502, 0.502)),
}
"""Networks with published weights -> mean and standard deviation of the pixels that these were trained with."""
PRETRAINED = tuple(PUBLISHED_INPUT)


class ClassifierConfig(ModelSection):
    """A network that gives every image one vector of class logits."""

    network: Literal["shake_shake26", "conv_large", "resnet18", "efficientnet_lite0", "lenet2d", "small_conv"] = (
        "shake_shake26"
    )
    """`shake_shake26`: Shake-Shake 26 2x96d (CIFAR-10). `conv_large`: the 13-layer network of Mean Teacher (CIFAR-100,
    SVHN). `resnet18` (ImageNet). `efficientnet_lite0`: comes with weights trained on ImageNet. `lenet2d`: LeNet with a
    two-dimensional feature, for looking at. `small_conv`: four convolutions, for small images on a CPU."""
    norm: Literal["batch", "group", "weight"] = "batch"
    """Normalisation. With `group` an image's logits do not depend on the images beside it. `weight`, for `conv_large`:
    weight norm and mean-only batch norm, as Temporal Ensembling published that network. The networks other than
    `conv_large` and `small_conv` are published with `batch` (`lenet2d` has none)."""
    channels: tuple[PositiveInt, ...] = (32, 64, 96, 128)
    """`small_conv`: channels of its four convolutions."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """`conv_large`: share of the feature map's values dropped behind each of the first two blocks."""
    input_noise: Weight = 0.0
    """Standard deviation of Gaussian noise added to the normalised pixels in training (Temporal Ensembling: 0.15)."""
    mean: tuple[Share, Share, Share] = (0.4914, 0.4822, 0.4465)
    """Mean of red, green, blue over the data, in [0, 1]; the default is CIFAR-10's, and with `weights: imagenet` the
    one that these were trained with."""
    std: tuple[Spread, Spread, Spread] = (0.247, 0.2435, 0.2616)
    """Standard deviation of red, green, blue, in [0, 1]."""
    weights: PathText | None = None
    """For `resnet18`, which must say it, and `efficientnet_lite0`: `imagenet` (torchvision's published weights,
    downloaded once; those of `efficientnet_lite0` are installed with raydet, and its default), a local safetensors (or
    torch `weights_only`-loadable) file with the network's own names, or `none`. The last layer is left out where the
    number of classes differs."""

    @property
    def least_size(self) -> int:
        """The smallest side of an image (pixels) that the network takes."""
        return LEAST_SIZES[self.network]

    @model_validator(mode="after")
    def _fits(self) -> ClassifierConfig:
        if self.weights is not None and self.network not in PRETRAINED:
            raise ValueError(
                f"network {self.network} trains from scratch: remove `weights`, or use {' or '.join(PRETRAINED)}"
            )
        if self.norm == "group" and self.network not in ("conv_large", "small_conv"):
            raise ValueError(
                f"network {self.network} has no group norm: remove `norm`, or use conv_large or small_conv"
            )
        if self.norm == "weight" and self.network != "conv_large":
            raise ValueError(f"network {self.network} has no weight norm: remove `norm`, or use conv_large")
        if len(self.channels) != 4:
            raise ValueError(f"channels wants four numbers, got {len(self.channels)}")
        # Sizes of a network that is not chosen lie idle, as a search over networks wants it; but who sets a dropout
        # wants it to act. Saved configurations hold every key: only another value than the default was set.
        if self.network != "conv_large" and self.dropout != type(self).model_fields["dropout"].default:
            raise ValueError(f"network {self.network} has no dropout: remove `dropout`, or use conv_large")
        return self

    @model_validator(mode="after")
    def _weights_are_chosen(self) -> Self:
        if self.network in PRETRAINED and "weights" not in self.model_fields_set:
            if self.network != "efficientnet_lite0":
                raise ValueError(f"network {self.network} without `weights`: {HOW_TO_CHOOSE}")
            self._fill(weights=IMAGENET)
        if self.weights == IMAGENET:
            mean, std = PUBLISHED_INPUT[self.network]
            given = self.model_fields_set
            self._fill(mean=self.mean if "mean" in given else mean, std=self.std if "std" in given else std)
        return self
