"""The colours of a strong view: drawn once, then given with Pillow by the loader, or with torch by the device that
trains.

Pillow takes a half to a fifth of the time of torch's kernels on a CPU, and its operations are those that published
results were made with. A GPU does in a moment what takes a core most of the time that it spends on an image
(benchmarks/loader.md). The draws are the same in both; a pixel differs by rounding, and where it is blurred by what
Pillow's boxes lack of a Gaussian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from raydet.config.box_data import ViewsConfig
from raydet.randomness import happens, integer, uniform
from raydet.vision.device import to_device
from raydet.vision.pictures import from_picture, to_picture

_BRIGHTNESS_CONTRAST_SATURATION = 0.4
_HUE = 0.1
_ERASE_AREA = ((0.05, 0.2), (0.02, 0.2), (0.02, 0.2))  # fraction of the image, one range per erasing
_ERASE_RATIO = ((0.3, 3.3), (0.1, 6.0), (0.05, 8.0))  # height / width, drawn log-uniformly
_ERASE_TRIES = 10  # a long thin rectangle may not fit; then another is drawn
_SIGMAS = 4  # a blur reaches so many on each side
Picture = TypeVar("Picture", Image.Image, Tensor)


@dataclass(frozen=True, slots=True)
class Jitter:
    """Factors of brightness, contrast and saturation, a shift of the hue, and which comes when."""

    factors: tuple[float, float, float, float]
    order: tuple[int, ...]  # indices into `factors`


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A rectangle that is overwritten with noise."""

    top: int
    left: int
    noise: Tensor  # [3, h, w] uint8


@dataclass(frozen=True, slots=True, eq=False)
class Colors:
    """What one strong view does to the pixels of its weak view, in this order."""

    jitter: Jitter | None
    is_gray: bool
    sigma: float | None  # of the blur, pixels
    patches: tuple[Patch, ...]


def drawn(height: int, width: int, config: ViewsConfig, rng: torch.Generator) -> Colors:
    """Draw the colours of a view of `height` x `width` pixels."""
    jitter = _jitter(rng) if happens(config.color_jitter, rng) else None
    is_gray = happens(config.grayscale, rng)
    sigma = uniform(rng, *config.blur_sigma) if happens(config.blur, rng) else None
    patches = []
    for probability, area, ratio in zip(config.erase, _ERASE_AREA, _ERASE_RATIO, strict=True):
        if happens(probability, rng) and (patch := _patch(height, width, area, ratio, rng)) is not None:
            patches.append(patch)
    return Colors(jitter, is_gray, sigma, tuple(patches))


def with_pillow(pixels: Tensor, colors: Colors) -> Tensor:
    """Return a copy of `pixels` `[3, h, w]` uint8, on the CPU, in these colours."""
    image = to_picture(pixels)
    if colors.jitter is not None:
        image = _jittered(image, colors.jitter)
    if colors.is_gray:
        image = image.convert("L").convert("RGB")
    if colors.sigma is not None:
        image = image.filter(ImageFilter.GaussianBlur(colors.sigma))
    return _erased(from_picture(image), colors)


def with_torch(pixels: Tensor, colors: Colors) -> Tensor:
    """Return a copy of `pixels` `[3, h, w]` uint8, on any device, in these colours."""
    found = pixels.clone() if colors.jitter is None else _jittered(pixels, colors.jitter)
    if colors.is_gray:
        found = F.rgb_to_grayscale(found, num_output_channels=3)
    if colors.sigma is not None:
        reach = math.ceil(_SIGMAS * colors.sigma)
        # What lies beyond the border is its mirror image, so that no blur reaches further than the view.
        sides = [2 * min(reach, side - 1) + 1 for side in (found.shape[2], found.shape[1])]
        found = F.gaussian_blur(found, sides, [colors.sigma, colors.sigma])
    return _erased(found.contiguous(), colors)


def _jitter(rng: torch.Generator) -> Jitter:
    low, high = 1 - _BRIGHTNESS_CONTRAST_SATURATION, 1 + _BRIGHTNESS_CONTRAST_SATURATION
    brightness, contrast, saturation = (uniform(rng, low, high) for _ in range(3))
    factors = (brightness, contrast, saturation, uniform(rng, -_HUE, _HUE))
    return Jitter(factors, tuple(torch.randperm(4, generator=rng).tolist()))


def _jittered(image: Picture, jitter: Jitter) -> Picture:
    """Change brightness, contrast, saturation and hue, in the order drawn."""
    operations = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for which in jitter.order:
        image = operations[which](image, jitter.factors[which])
    return image


def _patch(
    height: int, width: int, area: tuple[float, float], ratio: tuple[float, float], rng: torch.Generator
) -> Patch | None:
    """Draw a rectangle within the view; None: none of those that were tried fits."""
    for _ in range(_ERASE_TRIES):
        size = height * width * uniform(rng, *area)
        tallness = math.exp(uniform(rng, math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(size * tallness)), round(math.sqrt(size / tallness))
        if 0 < h < height and 0 < w < width:
            top, left = integer(rng, 0, height - h + 1), integer(rng, 0, width - w + 1)
            return Patch(top, left, torch.randint(0, 256, (3, h, w), dtype=torch.uint8, generator=rng))
    return None


def _erased(pixels: Tensor, colors: Colors) -> Tensor:
    """Overwrite the patches, in place; boxes stay as they are."""
    for patch in colors.patches:
        _, h, w = patch.noise.shape
        noise = to_device(patch.noise, pixels.device)
        pixels[:, patch.top : patch.top + h, patch.left : patch.left + w] = noise
    return pixels
