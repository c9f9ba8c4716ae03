"""Feature extractors: ResNets with torchvision's parameter names, and a small one that trains on a CPU.

ResNets with `weights` carry FrozenBatchNorm2d and train their top `trainable_stages` only. Without weights there is
nothing worth freezing: all stages train, with plain BatchNorm2d (whose statistics then depend on the batch).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path

import torch
import torchvision.models as tv
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from raydet.config.detector import ModelConfig
from raydet.vision.weights import load_tensors, read_tensors

RESNETS = {"resnet18_fpn": tv.resnet18, "resnet50_fpn": tv.resnet50, "resnet101_fpn": tv.resnet101}
RESNET_STRIDES = (4, 8, 16, 32)  # of the levels that RoIs are pooled from; the RPN also sees stride 64
SMALL_STRIDES = (8, 16, 32)


def build_backbone(config: ModelConfig) -> nn.Module:
    """Return a module from images `[N, 3, H, W]` to an ordered dict of feature maps, finest first.

    Raises CheckpointError where `config.weights` cannot be read or does not fit.
    """
    if config.backbone == "small_gn":
        return SmallBackbone(config.small_channels, config.fpn_channels)
    return _resnet_fpn(config)


def pooled_strides(config: ModelConfig) -> tuple[int, ...]:
    """Return the strides of the feature maps that RoIs are pooled from: the first maps of the backbone's output."""
    return SMALL_STRIDES if config.backbone == "small_gn" else RESNET_STRIDES


class SmallBackbone(nn.Module):
    """A stem and four residual blocks, each halving the resolution, with group norm; pyramid at strides 8, 16, 32.

    Group norm sees one image at a time, but its padding too: an image's features depend on the size of its frame.
    """

    def __init__(self, channels: tuple[int, ...], fpn_channels: int) -> None:
        super().__init__()
        stem, *stages = channels
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False), _norm(stem), nn.ReLU())
        self.stages = nn.ModuleList(_Block(a, b) for a, b in zip(channels, stages, strict=False))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.fpn = FeaturePyramidNetwork(stages[1:], fpn_channels)
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
    norm = nn.BatchNorm2d if config.weights is None else FrozenBatchNorm2d
    body = RESNETS[config.backbone](weights=None, norm_layer=norm)
    width: int = body.fc.in_features  # of the last stage; each stage before it has half of the next one's
    backbone: nn.Module = BackboneWithFPN(
        body,
        return_layers={f"layer{stage + 1}": str(stage) for stage in range(4)},
        in_channels_list=[width // 8, width // 4, width // 2, width],
        out_channels=config.fpn_channels,
        extra_blocks=LastLevelMaxPool(),
    )
    if config.weights is not None:
        _load_body(backbone.get_submodule("body"), Path(config.weights), config.backbone)
        _freeze(backbone.get_submodule("body"), config.trainable_stages)
    return backbone


def _freeze(body: nn.Module, trainable_stages: int) -> None:
    trained = ("layer4", "layer3", "layer2", "layer1", "conv1")[:trainable_stages]
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.startswith(trained))


def _load_body(body: nn.Module, path: Path, backbone: str) -> None:
    tensors = {
        name: value
        for name, value in read_tensors(path).items()
        # The ImageNet classifier is not part of a detector; frozen norms count no batches.
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    load_tensors(body, tensors, f"model.weights: the tensors of {path} ({backbone})")
