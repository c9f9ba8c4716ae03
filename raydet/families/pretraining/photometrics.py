"""BYOL's changes of colour (Grill et al., NeurIPS 2020, Appendix B), in Pillow: several times as fast on a CPU as
torchvision's tensor kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from raydet.config.proposal_data import ProposalViewsConfig
from raydet.vision.pictures import from_picture, to_picture

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1
FULL_SIZE = 224  # pixels: the view that `blur_sigma` is meant for
SOLARIZED_FROM = 128


def recoloured(pixels: Tensor, config: ProposalViewsConfig, number: int, rng: torch.Generator) -> Tensor:
    """Return view `number` (0 to 2) of an image, `[3, S, S]` uint8, in other colours, blurred and solarised, perhaps.

    What is drawn does not depend on what happens, so that one probability changes nothing but its own operation.
    """
    drawn = torch.rand(9, generator=rng, dtype=torch.float64).tolist()
    order = torch.randperm(4, generator=rng).tolist()
    happens, strengths, sigma = drawn[:4], drawn[4:8], drawn[8]
    image = to_picture(pixels)
    if happens[0] < config.color_jitter:
        image = _jittered(image, strengths, order)
    if happens[1] < config.grayscale:
        image = image.convert("L").convert("RGB")
    if happens[2] < config.blur[number]:
        low, high = config.blur_sigma
        scale = pixels.shape[-1] / FULL_SIZE
        image = image.filter(ImageFilter.GaussianBlur((low + (high - low) * sigma) * scale))
    if happens[3] < config.solarize[number]:
        image = ImageOps.solarize(image, SOLARIZED_FROM)
    return from_picture(image)


def _jittered(image: Image.Image, drawn: list[float], order: list[int]) -> Image.Image:
    """Change brightness, contrast, saturation and hue in `order`, by what was drawn from [0, 1) for each."""

    def factor(by: float, share: float) -> float:
        return 1 - by + 2 * by * share

    operations: list[Callable[[Image.Image], Image.Image]] = [
        lambda x: F.adjust_brightness(x, factor(BRIGHTNESS, drawn[0])),
        lambda x: F.adjust_contrast(x, factor(CONTRAST, drawn[1])),
        lambda x: F.adjust_saturation(x, factor(SATURATION, drawn[2])),
        lambda x: F.adjust_hue(x, HUE * (2 * drawn[3] - 1)),
    ]
    for place in order:
        image = operations[place](image)
    return image
