"""Soft Teacher's operations against torchvision's, and how strong they are where many are drawn."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from raydet.config.box_data import ViewsConfig
from raydet.families.detection.soft_config import ColorOperation, SoftViewsConfig
from raydet.families.detection.soft_views import FILL, OwnGeometry, recolored
from raydet.randomness import stream
from raydet.vision.geometry import View

STRONG = 9
ENHANCED = 1.8 * STRONG / 10 + 0.1  # 1.72
EXPECTED: dict[ColorOperation, Callable[[Tensor], Tensor]] = {
    "identity": lambda pixels: pixels,
    "autocontrast": F.autocontrast,
    "equalize": F.equalize,
    "solarize": lambda pixels: F.solarize(pixels, 128),  # 25.6 * 5: of strength 5
    "color": lambda pixels: F.adjust_saturation(pixels, ENHANCED),
    "contrast": lambda pixels: F.adjust_contrast(pixels, ENHANCED),
    "brightness": lambda pixels: F.adjust_brightness(pixels, ENHANCED),
    "sharpness": lambda pixels: F.adjust_sharpness(pixels, ENHANCED),
    "posterize": lambda pixels: F.posterize(pixels, 1),  # 4 - int(.4 * 9)
}


def picture() -> Tensor:
    """Noise of 60 to 189, reddish and mostly dark: neither grey, nor of full contrast, nor of even brightness.

    It has more than 255 pixels: fewer are left alone by equalize.
    """
    noise = torch.rand(3, 30, 40, generator=stream(0, "noise")) ** 2 * torch.tensor([130, 100, 70]).view(3, 1, 1)
    return (60 + noise).to(torch.uint8)


def apart(one: Tensor, other: Tensor) -> float:
    """How many grey levels two pictures differ by on average."""
    return float((one.int() - other.int()).abs().float().mean())


@pytest.mark.parametrize("operation", EXPECTED)
def test_a_colour_operation_does_what_torchvision_does_under_its_name(operation: ColorOperation):
    found = recolored(picture(), operation, 5 if operation == "solarize" else STRONG)
    assert found.shape == (3, 30, 40) and found.dtype == torch.uint8
    distances = {name: apart(found, made(picture())) for name, made in EXPECTED.items()}
    # Pillow rounds where torchvision cuts off; every other operation is far away.
    assert distances.pop(operation) < 0.5
    assert min(distances.values()) > 5, distances


def moves(count: int) -> dict[str, list[tuple[float, ...]]]:
    """The geometric operations of many student's views, by kind: shares of the sides, degrees."""
    # The view begins with the picture as it is: short side 60, no flip.
    recipe = OwnGeometry(
        ViewsConfig(horizontal_flip=0.0),
        SoftViewsConfig(short_side=(60, 60), color_operations=("identity",), erasures=0),
    )
    pixels = torch.zeros(3, 60, 80, dtype=torch.uint8)
    seen = (pixels, View.identity(60, 80))
    found: dict[str, list[tuple[float, ...]]] = {"x": [], "y": [], "turn": [], "shear": []}
    for number in range(count):
        view = recipe.student(seen, lambda: pixels, stream(0, "moves", number))[1]
        a, b, tx, c, d, ty = view.matrix
        if view.is_axis_aligned:
            assert (a, d) == (1, 1) and (tx == 0) != (ty == 0)
            found["x" if ty == 0 else "y"].append((tx / 80 if ty == 0 else ty / 60,))
        elif a == d:
            found["turn"].append((math.degrees(math.atan2(c, a)),))
        else:  # along x, then along y: [[1, 0], [v, 1]] [[1, u], [0, 1]] = [[1, u], [v, 1 + u v]]
            assert a == pytest.approx(1) and d == pytest.approx(1 + b * c)
            found["shear"].append((math.degrees(math.atanh(b)), math.degrees(math.atanh(c))))
    return found


def test_moves_reach_the_published_bounds_and_no_further():
    # A draw is in the outer 5 % at one end with probability .025: of 250, .975^250 = .2 % miss it.
    found = moves(1000)
    assert all(200 < len(each) < 300 for each in found.values())  # one of four each
    for kind, most in (("x", 0.1), ("y", 0.1), ("turn", 30.0), ("shear", 30.0)):
        for drawn in zip(*found[kind], strict=True):
            assert 0.95 * most < max(drawn) <= most * (1 + 1e-9), kind
            assert 0.95 * -most > min(drawn) >= -most * (1 + 1e-9), kind


def erased(own: SoftViewsConfig, height: int, width: int, number: int) -> Tensor:
    """Where the student's view of a black picture is grey, `[height, width]`."""
    own = own.model_copy(update={"short_side": (height, height), "translate": 0.0, "rotate_degrees": 0.0})
    own = own.model_copy(update={"shear_degrees": 0.0, "color_operations": ("identity",)})
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    seen = (pixels, View.identity(height, width))
    grey = OwnGeometry(ViewsConfig(), own).student(seen, lambda: pixels, stream(0, "erased", number))[0].pixels == FILL
    assert torch.equal(grey.any(dim=0), grey.all(dim=0))
    return grey[0]


def rectangles(grey: Tensor) -> int:
    """How many rectangles there are: upper left corners, without grey above or to the left."""
    beyond = torch.nn.functional.pad(grey, (1, 0, 1, 0))
    return int((grey & ~beyond[:-1, 1:] & ~beyond[1:, :-1]).sum())


def test_from_one_to_four_rectangles_are_erased_one_number_as_often_as_another():
    # At most 12 of 600 pixels wide, so that they seldom meet; one in 24 rounds to nothing.
    own = SoftViewsConfig(erase_side=0.02)
    found = Counter(rectangles(erased(own, 600, 600, number)) for number in range(200))
    assert set(found) <= {0, 1, 2, 3, 4}
    assert all(30 <= found[count] <= 75 for count in (1, 2, 3, 4)), found  # 200 / 4 = 50


def test_an_erasure_takes_the_same_share_of_both_sides_up_to_a_fifth():
    own, shares = SoftViewsConfig(erasures=1), []
    for number in range(200):
        rows, columns = erased(own, 100, 200, number).nonzero(as_tuple=True)
        h, w = (int(each.max() - each.min()) + 1 if len(each) else 0 for each in (rows, columns))
        assert abs(2 * h - w) <= 1.5  # 200 / 100 = 2; each is rounded by itself
        shares.append(w / 200)
    assert 0.19 < max(shares) <= 0.2 and min(shares) < 0.01
    assert sum(shares) / 200 == pytest.approx(0.1, abs=0.015)  # even: deviation .2 / sqrt(12 * 200) = .004
