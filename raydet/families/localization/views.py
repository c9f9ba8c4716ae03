"""Views of an image for localisation.

The plain view and the test view are made by the loader, uint8 in and out. The strong view S(.) is made of the plain one
on its device, because its box is what the network says of the plain view: its parameters are drawn by the loader.
Every draw comes from the generator given.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from raydet.config.located_data import LocatedViewsConfig
from raydet.families.localization.boxes import sample
from raydet.randomness import happens
from raydet.vision.device import to_device
from raydet.vision.geometry import View

SCALE = (0.8, 1.2)
MOST_CUT = 0.25  # of a side that is cut off or added
TRANSLATED = 0.5  # probability
FLIPPED = 0.5
NUM_PARAMETERS = 8
_SCALE_X, _SCALE_Y, _LEFT, _TOP, _RIGHT, _BOTTOM, _FLIP_X, _FLIP_Y = range(NUM_PARAMETERS)
_NEUTRAL = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)


def plain_view(pixels: Tensor, config: LocatedViewsConfig, rng: torch.Generator) -> tuple[Tensor, View]:
    """Return the general augmentation of `pixels` `[3, H, W]` uint8, `[3, S, S]`, and how to get there: squeezed to a
    square, a random square cut out of it, flipped."""
    resized, view = _squeezed(pixels, config.resize)
    room = config.resize - config.size + 1
    top, left = (int(place) for place in torch.randint(0, room, (2,), generator=rng))
    flip = happens(config.horizontal_flip, rng)
    viewed, view = _cut(resized, view, top, left, config.size)
    return (viewed.flip(2) if flip else viewed).contiguous(), view.flipped(horizontal=flip)


def eval_view(pixels: Tensor, config: LocatedViewsConfig) -> tuple[Tensor, View]:
    """Return what is measured of `pixels` `[3, H, W]` uint8, `[3, S, S]`, and how to get there: the middle of the
    squeezed image, or all of it."""
    if config.test_view == "whole":
        return _squeezed(pixels, config.size)
    resized, view = _squeezed(pixels, config.resize)
    margin = (config.resize - config.size) // 2
    return _cut(resized, view, margin, margin, config.size)


@dataclass(frozen=True, slots=True)
class StrongSwitches:
    """Which operations the strong view has."""

    scale: bool = False
    translation: bool = False
    flip: bool = False


def draw_strong(rng: torch.Generator, *, scale: bool, translation: bool, flip: bool) -> Tensor:
    """Draw the parameters `[8]` float64 of one strong view: scales along x and y, what is added to each side (negative:
    cut off) in shares of the image, flips along x and y. What is switched off is drawn, and has no effect."""
    drawn = torch.rand(9, generator=rng, dtype=torch.float64)
    found = _NEUTRAL.clone()
    if scale:
        found[[_SCALE_X, _SCALE_Y]] = SCALE[0] + (SCALE[1] - SCALE[0]) * drawn[:2]
    if translation and drawn[2] < TRANSLATED:
        found[[_LEFT, _TOP, _RIGHT, _BOTTOM]] = MOST_CUT * (2 * drawn[3:7] - 1)
    if flip:
        found[[_FLIP_X, _FLIP_Y]] = (drawn[7:] < FLIPPED).double()
    return found


def strong_boxes(boxes: Tensor, parameters: Tensor) -> Tensor:
    """Carry boxes `[B, 4]` (xyxy, shares of the plain view) into strong views with `parameters` `[B, 8]`.

    They are clipped where the image is: after the scaling, and at the end. A box that has left the view has no inside.
    """
    p = to_device(parameters, boxes.device).double()
    x, y = (
        _along(boxes.double()[:, axis::2], p[:, scale], p[:, low], p[:, high], p[:, flip])
        for axis, scale, low, high, flip in (
            (0, _SCALE_X, _LEFT, _RIGHT, _FLIP_X),
            (1, _SCALE_Y, _TOP, _BOTTOM, _FLIP_Y),
        )
    )
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1).to(boxes.dtype)


def strong_pixels(pixels: Tensor, parameters: Tensor) -> Tensor:
    """Return strong views `[B, 3, S, S]` of plain views of the same shape, floating-point, where 0 is black.

    All three operations are one bilinear reading of the plain view. What an operation pushes beyond the border is gone
    for the next one, and what comes in is black.
    """
    p = to_device(parameters, pixels.device)
    side = int(pixels.shape[-1])
    x, seen_x = _sources(side, p[:, _SCALE_X], p[:, _LEFT], p[:, _RIGHT], p[:, _FLIP_X])
    y, seen_y = _sources(side, p[:, _SCALE_Y], p[:, _TOP], p[:, _BOTTOM], p[:, _FLIP_Y])
    found = sample(pixels, 2 * x - 1, 2 * y - 1)
    return found * (seen_y[:, None, :, None] & seen_x[:, None, None, :])


def _along(ends: Tensor, scale: Tensor, low: Tensor, high: Tensor, flip: Tensor) -> Tensor:
    """Map both ends `[B, 2]` of boxes along one axis."""
    ends = (0.5 + (ends - 0.5) * scale[:, None]).clamp(0, 1)
    ends = ((ends + low[:, None]) / (1 + low + high)[:, None]).clamp(0, 1)
    return torch.where(flip[:, None] > 0, 1 - ends.flip(1), ends)


def _sources(side: int, scale: Tensor, low: Tensor, high: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    """Return where in the plain view (shares) each of `side` pixels comes from, `[B, side]`, and whether it shows any
    of it."""
    place = ((torch.arange(side, dtype=torch.float64, device=scale.device) + 0.5) / side)[None]
    place = torch.where(flip[:, None] > 0, 1 - place, place)
    canvas = place * (1 + low + high)[:, None] - low[:, None]
    seen = (canvas >= 0) & (canvas <= 1)
    return 0.5 + (canvas - 0.5) / scale[:, None], seen


def _squeezed(pixels: Tensor, side: int) -> tuple[Tensor, View]:
    height, width = pixels.shape[1:]
    view = View.identity(height, width).resized(side, side)
    if (height, width) == (side, side):
        return pixels, view
    resized: Tensor = F.resize(pixels, [side, side], antialias=True)
    return resized, view


def _cut(pixels: Tensor, view: View, top: int, left: int, side: int) -> tuple[Tensor, View]:
    return pixels[:, top : top + side, left : left + side].contiguous(), view.cropped(top, left, side, side)
