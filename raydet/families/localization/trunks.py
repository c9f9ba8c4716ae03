"""Trunks of both networks: from pixels in [0, 1] to one feature map. Parameters have torchvision's names, or those of
EfficientNet-Lite0's published file, so that published weights load as they are.

Each trunk normalises as its published weights want it; images stay in [0, 1] for everybody else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torchvision.models as tv
from torch import Tensor, nn
from torch.nn import functional as F

from raydet.config.backbone import IMAGENET
from raydet.config.localizer import EMBEDDED, SMALL
from raydet.errors import CheckpointError
from raydet.vision.classifiers.layers import initialise
from raydet.vision.classifiers.small_conv import SmallConv
from raydet.vision.efficientnet_lite import INPUT_MEAN, INPUT_STD, WIDTH, EfficientNetLite0
from raydet.vision.images import IMAGENET_MEAN, IMAGENET_STD
from raydet.vision.pretrained import efficientnet_tensors, is_skipped, torchvision_tensors
from raydet.vision.weights import COUNTER, load_tensors, read_tensors

HALF = (0.5, 0.5, 0.5)
INCEPTION = [  # torchvision's layers, in order
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
    *(f"Mixed_{block}" for block in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")),
]
RESNET = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
STRIDE_16_BLOCK = 10  # EfficientNet-Lite0's last block of stride 16


class Trunk(nn.Module):
    """A convolutional network up to some layer. `body` has the published names."""

    def __init__(
        self,
        body: nn.Module,
        width: int,
        run: Callable[[nn.Module, Tensor], Tensor],
        *,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        """`run(body, pixels)` gives a map `[B, width, h, w]` of normalised pixels."""
        super().__init__()
        self.body, self.width, self._run = body, width, run
        # They belong to the network's definition, not to what was learned.
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the map `[B, width, h, w]` of `pixels` `[B, 3, S, S]` in [0, 1]."""
        return self._run(self.body, (pixels - self.mean) / self.std)

    def load(self, backbone: str, weights: str, key: str) -> None:
        """Take what `weights` names, `imagenet` or a file; of a whole network's file the layers that this trunk has.

        Raises CheckpointError, which names the setting `key`, where it cannot be had or does not fit.
        """
        tensors = _tensors(backbone, weights, key)
        counters = {name: value for name, value in self.body.state_dict().items() if name.endswith(COUNTER)}
        own = {name: tensors[name] for name in self.body.state_dict() if name in tensors}
        load_tensors(self.body, {**counters, **own}, f"{key}: the tensors of {weights} ({backbone})")


def build_trunk(backbone: str, channels: tuple[int, ...], *, whole: bool) -> Trunk:
    """Return a trunk with random weights: the `whole` network up to its last map, or up to the finer map that shows
    where a classifier looks."""
    if backbone == "inception_v3":
        trunk = _of_parts(
            tv.Inception3(aux_logits=False, init_weights=False), INCEPTION, "Mixed_7c" if whole else "Mixed_6e"
        )
        trunk = Trunk(trunk, 2048 if whole else 768, _in_turn, mean=HALF, std=HALF)
    elif backbone == "resnet50":
        trunk = Trunk(
            _of_parts(tv.resnet50(), RESNET, "layer4" if whole else "layer3"), 2048 if whole else 1024, _in_turn
        )
    elif backbone == "vgg19_bn":
        trunk = Trunk(_of_parts(tv.vgg19_bn(), ["features"], "features"), 512, _in_turn)
    elif backbone == EMBEDDED:
        body = EfficientNetLite0(has_head=True) if whole else EfficientNetLite0(last_block=STRIDE_16_BLOCK)
        trunk = Trunk(body, WIDTH if whole else 112, _head_map if whole else _stride_16, mean=INPUT_MEAN, std=INPUT_STD)
    else:
        assert backbone == SMALL, backbone
        small = SmallConv(channels, "group").layers
        return Trunk(small, channels[-1], _in_turn)
    if backbone != EMBEDDED:  # which draws its own
        initialise(trunk.body)
    return trunk


def _of_parts(network: nn.Module, names: list[str], last: str) -> nn.Module:
    """Return the layers of a network up to one, in order, under their own names."""
    wanted = names[: names.index(last) + 1]
    children = dict(network.named_children())
    parts = nn.Module()
    for name in wanted:
        parts.add_module(name, children[name])
    return parts


def _in_turn(body: nn.Module, x: Tensor) -> Tensor:
    for part in body.children():
        x = part(x)
    return x


def _stride_16(body: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(body, EfficientNetLite0)
    return body.maps(x)[16]


def _head_map(body: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(body, EfficientNetLite0)
    return F.relu6(body._bn1(body._conv_head(body.maps(x)[32])))


def start_from(trunk: Trunk, backbone: str, weights: str | None, key: str) -> Trunk:
    """Give a trunk the weights that it starts from, unless there are none or a checkpoint's come anyway."""
    if weights is not None and not is_skipped():
        trunk.load(backbone, weights, key)
    return trunk


def _tensors(backbone: str, weights: str, key: str) -> dict[str, Tensor]:
    try:
        if weights != IMAGENET:
            return read_tensors(Path(weights))
        return efficientnet_tensors() if backbone == EMBEDDED else torchvision_tensors(backbone)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("model.weights", key, 1)) from None
