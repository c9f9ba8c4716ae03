"""Weak and strong augmentation. Every draw comes from the generator given; every geometric step is in the `View`.

The strong view is computed from the weak view and changes colours only, so both share one geometry and pseudo-boxes
need no mapping between them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from raydet.config.box_data import ViewsConfig
from raydet.randomness import happens, integer, uniform
from raydet.vision.geometry import View

_BRIGHTNESS_CONTRAST_SATURATION = 0.4
_HUE = 0.1
_ERASE_AREA = ((0.05, 0.2), (0.02, 0.2), (0.02, 0.2))  # fraction of the image, one range per erasing
_ERASE_RATIO = ((0.3, 3.3), (0.1, 6.0), (0.05, 8.0))  # height / width, drawn log-uniformly
_ERASE_TRIES = 10  # a long thin rectangle may not fit; then another is drawn


def weak_view(pixels: Tensor, config: ViewsConfig, rng: torch.Generator) -> tuple[Tensor, View]:
    """Resize and flip `pixels` `[3, H, W]` uint8; return the view's pixels `[3, h, w]` and how to get there."""
    short_side = config.short_side[integer(rng, 0, len(config.short_side))]
    viewed, view = resized(pixels, short_side, config.max_long_side)
    return flipped(viewed, view, config, rng)


def eval_view(pixels: Tensor, config: ViewsConfig) -> tuple[Tensor, View]:
    """Resize `pixels` `[3, H, W]` uint8 for evaluation; return the view's pixels and how to get there."""
    viewed, view = resized(pixels, config.eval_short_side, config.max_long_side)
    return viewed.contiguous(), view


def strong_view(pixels: Tensor, config: ViewsConfig, rng: torch.Generator) -> Tensor:
    """Return a copy of the weak view `pixels` `[3, h, w]` uint8 with other colours, blurred and partly erased.

    Colour and blur run in Pillow: half to a fifth of the time of torchvision's tensor kernels on a CPU, and the very
    operations the published results were made with.
    """
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    if happens(config.color_jitter, rng):
        image = _jittered(image, rng)
    if happens(config.grayscale, rng):
        image = image.convert("L").convert("RGB")
    if happens(config.blur, rng):
        image = image.filter(ImageFilter.GaussianBlur(uniform(rng, *config.blur_sigma)))
    viewed = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    for probability, area, ratio in zip(config.erase, _ERASE_AREA, _ERASE_RATIO, strict=True):
        if happens(probability, rng):
            _erase(viewed, area, ratio, rng)
    return viewed


def flipped(pixels: Tensor, view: View, config: ViewsConfig, rng: torch.Generator) -> tuple[Tensor, View]:
    """Return a view `[3, h, w]` after the flips that are drawn for it."""
    flip_x = happens(config.horizontal_flip, rng)
    flip_y = happens(config.vertical_flip, rng)
    if flip_x:
        pixels = pixels.flip(2)
    if flip_y:
        pixels = pixels.flip(1)
    return pixels.contiguous(), view.flipped(horizontal=flip_x, vertical=flip_y)


def resized(pixels: Tensor, short_side: int, max_long_side: int) -> tuple[Tensor, View]:
    """Return an image `[3, H, W]` with its short edge of that many pixels, unless the long one would be too long."""
    height, width = pixels.shape[1:]
    scale = min(short_side / min(height, width), max_long_side / max(height, width))
    new_height, new_width = (max(1, round(side * scale)) for side in (height, width))
    view = View.identity(height, width).resized(new_height, new_width)
    return F.resize(pixels, [new_height, new_width], antialias=True), view


def _jittered(image: Image.Image, rng: torch.Generator) -> Image.Image:
    """Change brightness, contrast, saturation and hue, in an order drawn anew."""
    low, high = 1 - _BRIGHTNESS_CONTRAST_SATURATION, 1 + _BRIGHTNESS_CONTRAST_SATURATION
    brightness, contrast, saturation = (uniform(rng, low, high) for _ in range(3))
    hue = uniform(rng, -_HUE, _HUE)
    for operation in torch.randperm(4, generator=rng).tolist():
        if operation == 0:
            image = F.adjust_brightness(image, brightness)
        elif operation == 1:
            image = F.adjust_contrast(image, contrast)
        elif operation == 2:
            image = F.adjust_saturation(image, saturation)
        else:
            image = F.adjust_hue(image, hue)
    return image


def _erase(pixels: Tensor, area: tuple[float, float], ratio: tuple[float, float], rng: torch.Generator) -> None:
    """Overwrite one random rectangle of `pixels` `[3, h, w]` with noise, in place; boxes stay as they are."""
    height, width = pixels.shape[1:]
    for _ in range(_ERASE_TRIES):
        size = height * width * uniform(rng, *area)
        tallness = math.exp(uniform(rng, math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(size * tallness)), round(math.sqrt(size / tallness))
        if 0 < h < height and 0 < w < width:
            top, left = integer(rng, 0, height - h + 1), integer(rng, 0, width - w + 1)
            pixels[:, top : top + h, left : left + w] = torch.randint(
                0, 256, (3, h, w), dtype=torch.uint8, generator=rng
            )
            return
