"""EfficientNet-Lite0 (a MobileNetV2 of EfficientNet-B0's sizes, without squeeze-and-excitation, with ReLU6).

Parameters carry the names of the published PyTorch file (`_conv_stem`, `_bn0`, `_blocks.N._expand_conv`, ...), so that
it loads as it is. It was converted from TensorFlow: convolutions of stride 2 pad more on the right and at the bottom.
Nothing here draws random numbers: drop connect and dropout, which the network was trained with, are left out.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from raydet.vision.depthwise import depthwise_conv
from raydet.vision.folding import FoldedConv, fold_frozen_norms

INPUT_MEAN, INPUT_STD = (0.498,) * 3, (0.502,) * 3
"""Of the pixels in [0, 1], as (x - mean) / std: the normalisation that the published weights were trained with."""
STEM = 32
WIDTH = 1280
"""Channels of the feature that the ImageNet classifier reads."""
NORM_EPS = 1e-3
ROWS = (  # kernel, stride, expansion, output channels, blocks (EfficientNet, Table 1, with Lite's stem)
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
LEVELS = {4: (2, 24), 8: (4, 40), 16: (10, 112), 32: (15, 320)}
"""Stride -> the block whose output is the last of it, and that output's channels."""
FIRST_BLOCKS = (1, 3, 5, 11)
"""The first blocks of the stages of strides 4, 8, 16, 32; stem and block 0 (stride 2) are the stage below."""

Norm = Callable[..., nn.Module]


class SameConv(nn.Conv2d):
    """A convolution without bias whose output has ceil(H / stride) rows; uneven padding goes right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, depthwise: bool = False) -> None:
        super().__init__(
            inputs, outputs, kernel, stride, bias=False, groups=inputs if depthwise else 1,
            padding=kernel // 2 if stride == 1 else 0,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `[N, C, H, W]`."""
        if self.stride[0] > 1:
            right, below = (self._missing(int(side)) for side in (x.shape[-1], x.shape[-2]))
            x = F.pad(x, (right // 2, right - right // 2, below // 2, below - below // 2))
        return super().forward(x)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.groups > 1:
            return depthwise_conv(input, weight, bias, self.stride[0], int(self.padding[0]))
        plain: Tensor = super()._conv_forward(input, weight, bias)
        return plain

    def _missing(self, side: int) -> int:
        kernel, stride = self.kernel_size[0], self.stride[0]
        return max((-(-side // stride) - 1) * stride + kernel - side, 0)


class FoldedSameConv(FoldedConv, SameConv):
    """Such a convolution that does its frozen norm's work too."""


class Block(nn.Module):
    """The inverted residual: widen by 1 x 1, filter each channel, narrow by 1 x 1; a shortcut where sizes allow it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, norm: Norm) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = SameConv(inputs, inner)
            self._bn0 = norm(inner, eps=NORM_EPS)
        self._depthwise_conv = SameConv(inner, inner, kernel, stride, depthwise=True)
        self._bn1 = norm(inner, eps=NORM_EPS)
        self._project_conv = SameConv(inner, outputs)
        self._bn2 = norm(outputs, eps=NORM_EPS)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return `[N, outputs, H / stride, W / stride]`."""
        inner = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        inner = F.relu6(self._bn1(self._depthwise_conv(inner)), inplace=True)
        narrowed: Tensor = self._bn2(self._project_conv(inner))
        return x + narrowed if self.has_shortcut else narrowed


class EfficientNetLite0(nn.Module):
    """The network up to its last level or, with `has_head`, up to the features that a classifier reads."""

    def __init__(self, norm: Norm = nn.BatchNorm2d, *, last_block: int = 15, has_head: bool = False) -> None:
        """Build stem and blocks 0 to `last_block`; initial weights come from torch's global generator."""
        super().__init__()
        self._conv_stem = SameConv(3, STEM, 3, 2)
        self._bn0 = norm(STEM, eps=NORM_EPS)
        blocks, inputs = [], STEM
        for kernel, stride, expansion, outputs, repeats in ROWS:
            for i in range(repeats):
                blocks.append(Block(inputs, outputs, kernel, stride if i == 0 else 1, expansion, norm))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks[: last_block + 1])
        if has_head:
            self._conv_head = SameConv(inputs, WIDTH)
            self._bn1 = norm(WIDTH, eps=NORM_EPS)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        fold_frozen_norms(self, _pairs(self), FoldedSameConv)

    def maps(self, pixels: Tensor) -> dict[int, Tensor]:
        """Return the last map of each stride from 4 on, `[N, C, H / stride, W / stride]`; see `LEVELS`."""
        x = F.relu6(self._bn0(self._conv_stem(pixels)), inplace=True)
        ends = {block: stride for stride, (block, _) in LEVELS.items()}
        found = {}
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in ends:
                found[ends[i]] = x
        return found

    def features(self, pixels: Tensor) -> Tensor:
        """Return `[N, 1280]`: the mean over the image of what the head makes of the last map."""
        x = F.relu6(self._bn1(self._conv_head(self.maps(pixels)[32])))
        return x.mean(dim=(2, 3))

    def freeze(self, trainable_stages: int) -> None:
        """Leave the top stages trainable: 0 none, 1 that of stride 32, ..., 4 from stride 4 on, 5 and more all."""
        if trainable_stages > len(FIRST_BLOCKS):
            return
        first = (*FIRST_BLOCKS, len(self._blocks))[-1 - trainable_stages]
        for module in (self._conv_stem, self._bn0, *self._blocks[:first]):
            module.requires_grad_(False)


def _pairs(network: EfficientNetLite0) -> list[tuple[str, str]]:
    """Return the names of each convolution and its norm."""
    own = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
    of_block = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    found = [(conv, norm) for conv, norm in own.items() if hasattr(network, conv)]
    for i, block in enumerate(network._blocks):
        found += [
            (f"_blocks.{i}.{conv}", f"_blocks.{i}.{norm}") for conv, norm in of_block.items() if hasattr(block, conv)
        ]
    return found


def without_classifier(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a published file without the last layer's."""
    return {name: value for name, value in tensors.items() if not name.startswith("_fc.")}


def up_to(last_block: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return those of a published file that a network up to `last_block`, without head, has a place for."""
    head = ("_conv_head.", "_bn1.")

    def belongs(name: str) -> bool:
        block = name.split(".")[1] if name.startswith("_blocks.") else ""
        return not name.startswith(head) and not (block.isdigit() and last_block < int(block) < 16)

    return {name: value for name, value in without_classifier(tensors).items() if belongs(name)}
