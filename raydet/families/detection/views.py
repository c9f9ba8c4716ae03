"""Weak and strong augmentation. Every draw comes from the generator given; every geometric step is in the `View`.

The strong view is computed from the weak view and changes colours only, so both share one geometry and pseudo-boxes
need no mapping between them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from raydet.config.box_data import ViewsConfig
from raydet.families.detection.colors import drawn, with_pillow
from raydet.randomness import happens, integer
from raydet.vision.geometry import View


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
    """Return a copy of the weak view `pixels` `[3, h, w]` uint8 with other colours, blurred and partly erased."""
    return with_pillow(pixels, drawn(pixels.shape[1], pixels.shape[2], config, rng))


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
