"""Feature extractors: a body, and a feature pyramid on its maps.

ResNets have torchvision's parameter names, EfficientNet-Lite0 those of its published file; networks of timm come from
there; `small_gn` trains on a CPU. With `weights`, or another run's backbone (`init_from`), batch norms are frozen and
the top `trainable_stages` train. Without, there is nothing worth freezing: all stages train, with plain BatchNorm2d
(whose statistics then depend on the batch).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision.models as tv
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from raydet.config.backbone import EFFICIENTNET, IMAGENET, SMALL, TIMM
from raydet.config.detector import ModelConfig
from raydet.vision import efficientnet_lite
from raydet.vision.efficientnet_lite import EfficientNetLite0
from raydet.vision.folding import fold_frozen_norms
from raydet.vision.images import IMAGENET_MEAN, IMAGENET_STD
from raydet.vision.norms import Norm, norm_layer
from raydet.vision.pretrained import efficientnet_tensors, is_skipped, torchvision_tensors
from raydet.vision.timm_body import TimmBody
from raydet.vision.weights import COUNTER, load_tensors, read_tensors

RESNETS = {"resnet18_fpn": tv.resnet18, "resnet50_fpn": tv.resnet50, "resnet101_fpn": tv.resnet101}


def build_backbone(config: ModelConfig) -> nn.Module:
    """Return a module from images `[N, 3, H, W]`, normalised as `collate` does, to an ordered dict of feature maps
    `[N, fpn_channels, H / stride, W / stride]` at `config.fpn_strides`.

    Raises CheckpointError where `config.weights` cannot be had or does not fit, or the network has no such strides,
    ConfigError where it has no such stages.
    """
    if config.backbone == SMALL:
        return SmallBackbone(config.small_channels, config.fpn_channels, fpn_norm=_fpn_norm(config))
    if config.backbone == EFFICIENTNET:
        return _efficientnet_fpn(config)
    if config.backbone.startswith(TIMM):
        return _timm_fpn(config)
    return _resnet_fpn(config)


class Pyramid(nn.Module):
    """A feature pyramid on a body that gives maps by stride (`maps`), in the normalisation that the body wants.

    Images come as ImageNet's mean and standard deviation leave them: conversion is here, so that nobody who makes
    images for a model has to know. The zeros around an image in its frame are then a grey close to the body's own.
    """

    def __init__(
        self,
        body: EfficientNetLite0 | TimmBody,
        channels: Mapping[int, int],
        fpn_channels: int,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        pools: bool,
        fpn_norm: Norm | None = None,
    ) -> None:
        """`channels` of the body's maps by stride; `mean` and `std` of [0, 1] pixels; `pools` adds stride 64."""
        super().__init__()
        self.body = body
        self.strides = tuple(channels)
        top = LastLevelMaxPool() if pools else None
        self.fpn = FeaturePyramidNetwork(list(channels.values()), fpn_channels, top, fpn_norm)
        self.out_channels = fpn_channels
        self.mean, self.std = mean, std
        # (x - mean) / std = ((x - m) / s) * (s / std) + (m - mean) / std; no part of what is learned, so not saved
        scale = [s / own for s, own in zip(IMAGENET_STD, std, strict=True)]
        shift = [(m - own) / width for m, own, width in zip(IMAGENET_MEAN, mean, std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)
        self.register_buffer("shift", torch.tensor(shift)[:, None, None], persistent=False)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return maps "0", "1", ..., and "pool" for stride 64, finest first, for pixels `[N, 3, H, W]`."""
        maps = self.body.maps(pixels * self.scale + self.shift)
        pyramid: dict[str, Tensor] = self.fpn(OrderedDict((str(i), maps[s]) for i, s in enumerate(self.strides)))
        return pyramid


class SmallBackbone(nn.Module):
    """A stem and four residual blocks, each halving the resolution, with group norm; pyramid at strides 8, 16, 32.

    Group norm sees one image at a time, but its padding too: an image's features depend on the size of its frame.
    """

    def __init__(self, channels: tuple[int, ...], fpn_channels: int, fpn_norm: Norm | None = None) -> None:
        super().__init__()
        stem, *stages = channels
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False), _norm(stem), nn.ReLU())
        self.stages = nn.ModuleList(_Block(a, b) for a, b in zip(channels, stages, strict=False))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.fpn = FeaturePyramidNetwork(stages[1:], fpn_channels, norm_layer=fpn_norm)
        self.out_channels = fpn_channels

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return maps "0", "1", "2" `[N, fpn_channels, H/8, W/8]`, ..., for pixels `[N, 3, H, W]`."""
        x = self.stem(pixels)
        maps = OrderedDict()
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i > 0:
                maps[str(i - 1)] = x
        pyramid: dict[str, Tensor] = self.fpn(maps)
        return pyramid


class _Block(nn.Module):
    """The basic residual block (He et al., 2016) with stride 2 and group norm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            _norm(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            _norm(outputs),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), _norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, channels), channels)


def _resnet_fpn(config: ModelConfig) -> nn.Module:
    norm = FrozenBatchNorm2d if config.keeps_norms("backbone") else nn.BatchNorm2d
    body = RESNETS[config.backbone](weights=None, norm_layer=norm)
    width: int = body.fc.in_features  # of the last stage; each stage before it has half of the next one's
    if config.weights is not None:
        _load_resnet(body, config.weights, config.backbone)
    if config.keeps_norms("backbone"):
        _freeze(body, config.trainable_stages)
    fold_frozen_norms(body, _resnet_pairs(body))
    stages = [stride.bit_length() - 2 for stride in config.pooled_strides]  # stride 4 is of layer1
    backbone: nn.Module = BackboneWithFPN(
        body,
        return_layers={f"layer{stage}": str(i) for i, stage in enumerate(stages)},
        in_channels_list=[width >> (4 - stage) for stage in stages],
        out_channels=config.fpn_channels,
        extra_blocks=LastLevelMaxPool(),
        norm_layer=_fpn_norm(config),
    )
    if not _pools(config):
        backbone.get_submodule("fpn").register_module("extra_blocks", None)  # BackboneWithFPN always adds one
    return backbone


def _resnet_pairs(body: nn.Module) -> list[tuple[str, str]]:
    """Return the names of each convolution of a ResNet and of the norm after it."""
    names = [name for name, module in body.named_modules() if isinstance(module, nn.Conv2d)]
    shortcut = "downsample."
    return [
        (name, name.replace("conv", "bn") if shortcut not in name else name.replace(f"{shortcut}0", f"{shortcut}1"))
        for name in names
    ]


def _fpn_norm(config: ModelConfig) -> Norm | None:
    return norm_layer(config.fpn_norm, is_frozen=config.keeps_norms("fpn"))


def _pools(config: ModelConfig) -> bool:
    return config.fpn_strides[-1] == 64


def _freeze(body: nn.Module, trainable_stages: int) -> None:
    trained = ("layer4", "layer3", "layer2", "layer1", "conv1")[:trainable_stages]
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.startswith(trained))


def _load_resnet(body: nn.Module, weights: str, backbone: str) -> None:
    if is_skipped():
        return
    network = backbone.removesuffix("_fpn")
    found = torchvision_tensors(network) if weights == IMAGENET else read_tensors(Path(weights))
    # The ImageNet classifier is not part of a detector; frozen norms count no batches.
    own = {name: value for name, value in body.state_dict().items() if name.startswith("fc.")}
    tensors = {
        name: value for name, value in found.items() if not name.startswith("fc.") and not name.endswith(COUNTER)
    }
    load_tensors(body, {**own, **tensors}, f"model.weights: the tensors of {weights} ({backbone})")


def _efficientnet_fpn(config: ModelConfig) -> Pyramid:
    norm = FrozenBatchNorm2d if config.keeps_norms("backbone") else nn.BatchNorm2d
    strides = config.pooled_strides
    last_block, _ = efficientnet_lite.LEVELS[strides[-1]]
    body = EfficientNetLite0(norm, last_block=last_block)
    if config.weights is not None and not is_skipped():
        is_file = config.weights != IMAGENET
        found = read_tensors(Path(config.weights)) if is_file else efficientnet_tensors()
        own = efficientnet_lite.up_to(last_block, found)
        tensors = {name: value for name, value in own.items() if not name.endswith(COUNTER)}
        load_tensors(body, tensors, f"model.weights: the tensors of {config.weights} ({config.backbone})")
    if config.keeps_norms("backbone"):
        body.freeze(config.trainable_stages)
    channels = {stride: efficientnet_lite.LEVELS[stride][1] for stride in strides}
    normalised = {"mean": efficientnet_lite.INPUT_MEAN, "std": efficientnet_lite.INPUT_STD}
    pools, fpn_norm = _pools(config), _fpn_norm(config)
    return Pyramid(body, channels, config.fpn_channels, pools=pools, fpn_norm=fpn_norm, **normalised)


def _timm_fpn(config: ModelConfig) -> Pyramid:
    # The file is not wanted where a checkpoint brings the weights, but what it makes of norms and stages is.
    weights = "" if config.keeps_norms("backbone") and (is_skipped() or config.weights is None) else config.weights
    strides, name = config.pooled_strides, config.backbone.removeprefix(TIMM)
    body = TimmBody(name, strides, weights=weights, trainable_stages=config.trainable_stages)
    channels = dict(zip(strides, body.channels, strict=True))
    normalised = {"mean": body.input_mean, "std": body.input_std}
    pools, fpn_norm = _pools(config), _fpn_norm(config)
    return Pyramid(body, channels, config.fpn_channels, pools=pools, fpn_norm=fpn_norm, **normalised)
