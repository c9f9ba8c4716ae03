"""Views of an image for a classifier, uint8 in and out. Every draw comes from the generator given."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from raydet.config.class_data import ImageViewsConfig
from raydet.randomness import happens, integer, uniform

_CROP_AREA = (0.08, 1.0)  # fraction of the image that a random resized crop shows
_CROP_RATIO = (3 / 4, 4 / 3)  # its width / height, drawn log-uniformly
_CROP_TRIES = 10  # a long crop may not fit; then another is drawn
_EVAL_SIDE = 256 / 224  # short side to which an image is resized before its middle is cut out, in sizes of the view


def plain_view(pixels: Tensor, config: ImageViewsConfig) -> Tensor:
    """Return `pixels` `[3, H, W]` uint8 without augmentation: `[3, S, S]`, for evaluation and for pseudo-labels.

    With `crop: resized` the middle of the image, its aspect kept; else the whole image, squeezed to a square.
    """
    size = config.size
    if config.crop != "resized":
        return _resized(pixels, size, size).contiguous()
    height, width = pixels.shape[1:]
    scale = round(size * _EVAL_SIDE) / min(height, width)
    pixels = _resized(pixels, max(size, round(height * scale)), max(size, round(width * scale)))
    top, left = ((side - size) // 2 for side in pixels.shape[1:])
    return pixels[:, top : top + size, left : left + size].contiguous()


def augmented_view(
    pixels: Tensor, config: ImageViewsConfig, rng: torch.Generator, *, fill: tuple[int, int, int], cutout: bool
) -> Tensor:
    """Return an augmented copy of `pixels` `[3, H, W]` uint8: `[3, S, S]`, moved or cropped, flipped, then `cutout`.

    The hole of Cutout is drawn last: with and without it, one generator gives one geometry. `fill` is its colour,
    0 to 255.
    """
    size = config.size
    if config.crop == "resized":
        viewed = _random_crop(pixels, size, rng)
    else:
        viewed = _resized(pixels, size, size)
        if config.crop == "translate":
            viewed = _translated(viewed, config.max_translate, rng)
    if happens(config.horizontal_flip, rng):
        viewed = viewed.flip(2)
    if cutout and config.cutout_size:
        viewed = viewed.clone(memory_format=torch.contiguous_format)
        _cut_hole(viewed, config.cutout_size, fill, rng)
    return viewed.contiguous()


def _resized(pixels: Tensor, height: int, width: int) -> Tensor:
    if pixels.shape[1:] == (height, width):
        return pixels
    resized: Tensor = F.resize(pixels, [height, width], antialias=True)
    return resized


def _translated(pixels: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """Move the image by up to `most` pixels each way; what comes in is its mirror image at the border."""
    down, right = torch.randint(-most, most + 1, (2,), generator=rng).tolist()
    rows, columns = (_mirrored(side, shift) for side, shift in zip(pixels.shape[1:], (down, right), strict=True))
    return pixels[:, rows][:, :, columns]


def _mirrored(side: int, shift: int) -> Tensor:
    """Return the positions `[side]` that a shift by `shift` shows, reflected without repeating the border."""
    last = side - 1
    return last - (last - (torch.arange(side) - shift).abs()).abs()


def _random_crop(pixels: Tensor, size: int, rng: torch.Generator) -> Tensor:
    height, width = pixels.shape[1:]
    for _ in range(_CROP_TRIES):
        area = height * width * uniform(rng, *_CROP_AREA)
        ratio = math.exp(uniform(rng, math.log(_CROP_RATIO[0]), math.log(_CROP_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = integer(rng, 0, height - h + 1), integer(rng, 0, width - w + 1)
            break
    else:  # an image as long as a strip: its middle, as near to the allowed ratios as it gets
        w = min(width, round(height * _CROP_RATIO[1]))
        h = min(height, round(width / _CROP_RATIO[0]))
        top, left = (height - h) // 2, (width - w) // 2
    return _resized(pixels[:, top : top + h, left : left + w], size, size)


def _cut_hole(pixels: Tensor, side: int, fill: tuple[int, int, int], rng: torch.Generator) -> None:
    """Fill a square of `pixels` `[3, h, w]` in place; its centre is any pixel, so a part of it may lie outside."""
    top, left = (integer(rng, 0, length) - side // 2 for length in pixels.shape[1:])
    colour = torch.tensor(fill, dtype=torch.uint8)[:, None, None]
    pixels[:, max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = colour
