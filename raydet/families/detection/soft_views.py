"""Soft Teacher's augmentation (section 4.1 and code): teacher and student see an image in geometries of their own.

    labelled   resize, flip, one colour operation
    teacher    resize, flip
    student    resize, flip, {one colour operation, one geometric operation} in random order, square erasures

Every geometric step is in the `View`, so boxes travel by T_student T_teacher^-1, their corners warped.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from PIL import ImageEnhance, ImageOps
from torch import Tensor

from raydet.config.box_data import ViewsConfig
from raydet.families.detection.soft_config import ColorOperation, SoftViewsConfig
from raydet.families.detection.view_recipes import Look, RngOf, ViewRecipe
from raydet.families.detection.views import flipped, resized
from raydet.randomness import happens, integer, uniform
from raydet.vision.geometry import View, warp
from raydet.vision.pictures import from_picture, to_picture

FILL = 125  # colour of what lies outside the image, and of erasures
LEVELS = 10  # of an operation's strength; drawn from 1 to 9
_ENHANCERS = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}


class OwnGeometry(ViewRecipe):
    """Every view is made from the original, with draws of its own."""

    shows_teacher_views = True

    def __init__(self, config: ViewsConfig, own: SoftViewsConfig) -> None:
        """`config` gives flips and the longest side, `own` the rest."""
        self._config, self._own = config, own

    @property
    def roles(self) -> tuple[str, ...]:
        """A labelled image enters a step once."""
        return ("labeled",)

    def labeled(self, pixels: Tensor, rng_of: RngOf) -> tuple[list[Look], View]:
        """Resize, flip, change colours."""
        rng = rng_of("labeled")
        viewed, view = self.teacher(pixels, rng)
        return [Look(self._recolored(viewed, rng))], view

    def teacher(self, pixels: Tensor, rng: torch.Generator) -> tuple[Tensor, View]:
        """Resize and flip."""
        low, high = self._own.short_side
        viewed, view = resized(pixels, integer(rng, low, high + 1), self._config.max_long_side)
        return flipped(viewed, view, self._config, rng)

    def student(
        self, seen: tuple[Tensor, View], original: Callable[[], Tensor], rng: torch.Generator
    ) -> tuple[Look, View]:
        """Start from the original again."""
        pixels, view = self.teacher(original(), rng)
        if happens(0.5, rng):
            pixels = self._recolored(pixels, rng)
            pixels, view = self._moved(pixels, view, rng)
        else:
            pixels, view = self._moved(pixels, view, rng)
            pixels = self._recolored(pixels, rng)
        return Look(self._erased(pixels, rng)), view

    def _recolored(self, pixels: Tensor, rng: torch.Generator) -> Tensor:
        operations = self._own.color_operations
        operation, level = operations[integer(rng, 0, len(operations))], integer(rng, 1, LEVELS)
        return recolored(pixels, operation, level)

    def _moved(self, pixels: Tensor, view: View, rng: torch.Generator) -> tuple[Tensor, View]:
        """Translate along x, along y, rotate, or shear."""
        which, own = integer(rng, 0, 4), self._own
        here = View.identity(view.height, view.width)
        if which == 0:
            moved = here.shifted(x=uniform(rng, -own.translate, own.translate) * view.width)
        elif which == 1:
            moved = here.shifted(y=uniform(rng, -own.translate, own.translate) * view.height)
        elif which == 2:
            moved = here.rotated(uniform(rng, -own.rotate_degrees, own.rotate_degrees))
        else:
            x, y = (shear_factor(uniform(rng, -own.shear_degrees, own.shear_degrees)) for _ in range(2))
            moved = here.sheared(x, y)
        if moved == here:
            return pixels, view
        return warp(pixels, moved, fill=FILL), view.then(moved)

    def _erased(self, pixels: Tensor, rng: torch.Generator) -> Tensor:
        """Overwrite 1 to `erasures` rectangles, each a share of both sides; boxes stay as they are."""
        if not self._own.erasures:
            return pixels
        height, width = pixels.shape[1:]
        pixels = pixels.clone()
        for _ in range(integer(rng, 1, self._own.erasures + 1)):
            share = uniform(rng, 0.0, self._own.erase_side)
            h, w = round(share * height), round(share * width)
            top, left = integer(rng, 0, height - h + 1), integer(rng, 0, width - w + 1)
            pixels[:, top : top + h, left : left + w] = FILL
        return pixels


def recolored(pixels: Tensor, operation: ColorOperation, level: int) -> Tensor:
    """Return a copy of `pixels` `[3, h, w]` uint8 after one colour operation of strength 1..9 out of 10."""
    if operation == "identity":
        return pixels
    image = to_picture(pixels)
    if operation == "autocontrast":
        image = ImageOps.autocontrast(image)
    elif operation == "equalize":
        image = ImageOps.equalize(image)
    elif operation == "solarize":
        image = ImageOps.solarize(image, int(25.6 * level))  # as published: cut off, not rounded
    elif operation == "posterize":
        image = ImageOps.posterize(image, 4 - int(0.4 * level))
    else:
        image = _ENHANCERS[operation](image).enhance(1.8 * level / LEVELS + 0.1)
    return from_picture(image)


def shear_factor(degrees: float) -> float:
    """Return how far a point moves aside per pixel of height; the published code takes tanh, not tan."""
    return math.tanh(math.radians(degrees))
