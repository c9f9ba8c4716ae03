"""The two networks of localisation: a classifier whose maps show where it looks, and one that says a box.

Defaults: LCHP's.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from raydet.config.backbone import HOW_TO_CHOOSE, IMAGENET
from raydet.config.base import ModelSection, PositiveFloat, PositiveInt
from raydet.config.paths import PathText

SMALL = "small"
EMBEDDED = "efficientnet_lite0"
ClassifierBackbone = Literal["inception_v3", "resnet50", "efficientnet_lite0", "small"]
LocalizerBackbone = Literal["inception_v3", "vgg19_bn", "resnet50", "efficientnet_lite0", "small"]
LEAST_SIZES = {"inception_v3": 128, "vgg19_bn": 32, "resnet50": 32, EMBEDDED: 32, SMALL: 16}
"""Backbone -> the smallest side of an image (pixels) that leaves it something to look at."""


class LocalizerConfig(ModelSection):
    """A classifier and a localizer, which share no weights."""

    weight_keys: ClassVar[tuple[str, ...]] = ("weights", "classifier_weights", "localizer_weights")

    classifier_backbone: ClassifierBackbone = "inception_v3"
    """Trunk of the classifier: InceptionV3 up to Mixed_6e, ResNet-50 up to layer3, EfficientNet-Lite0 up to stride 16;
    `small`: four convolutions, for trying things out."""
    localizer_backbone: LocalizerBackbone = "inception_v3"
    """Trunk of the localizer (Table 5)."""
    num_attention_maps: PositiveInt = 32
    """Attention maps of the classifier (M)."""
    bap_scale: PositiveFloat = 100.0
    """Length of the bilinear feature that the logits are made of; with 1 no class can be sure of itself."""
    cam_channels: PositiveInt = 1024
    """`cam` and `psol`: channels of the 3 x 3 convolution whose maps the class activation map is a sum of."""
    hidden: PositiveInt = 512
    """Width of the localizer's hidden layer."""
    channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (16, 32, 64, 64)
    """`small`: channels of its four convolutions."""
    weights: PathText | None = None
    """Both networks' weights: `imagenet` (published weights, downloaded once; those of `efficientnet_lite0` are
    installed with raydet, and its default), a local file in torchvision's names, or `none`. `small` has none. Without
    a section `model`: `imagenet`."""
    classifier_weights: PathText | None = None
    """Instead of `weights`, for the classifier's trunk alone."""
    localizer_weights: PathText | None = None
    """Instead of `weights`, for the localizer's trunk alone."""

    def weights_of(self, network: Literal["classifier", "localizer"]) -> str | None:
        """Return what a network starts from: `imagenet`, a file, or None for random weights."""
        if getattr(self, f"{network}_backbone") == SMALL:
            return None
        own: str | None = getattr(self, f"{network}_weights")
        found = self.weights if own is None else own
        return None if found == "none" else found

    @property
    def least_size(self) -> int:
        """Return the smallest side of an image (pixels) that both networks take."""
        return max(LEAST_SIZES[self.classifier_backbone], LEAST_SIZES[self.localizer_backbone])

    @model_validator(mode="after")
    def _weights_are_chosen(self) -> Self:
        said = self.model_fields_set
        backbones = {self.classifier_backbone, self.localizer_backbone}
        if backbones == {SMALL}:
            given = [key for key in self.weight_keys if getattr(self, key) is not None]
            if given:
                raise ValueError(
                    f"backbones `small` train from scratch: remove {' and '.join(f'`{k}`' for k in given)}"
                )
        elif "weights" not in said:
            open_ = {each for each in ("classifier", "localizer") if f"{each}_weights" not in said}
            undecided = {getattr(self, f"{each}_backbone") for each in open_} - {SMALL, EMBEDDED}
            if undecided:
                raise ValueError(f"backbone {' and '.join(sorted(undecided))} without `weights`: {HOW_TO_CHOOSE}")
            if open_:
                self._fill(weights=IMAGENET)
        return self
