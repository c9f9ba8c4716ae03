from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.config.box_data import ViewsConfig
from raydet.families.detection.batch import ViewedImage
from raydet.families.detection.methods.soft_teacher import into
from raydet.families.detection.soft_config import SoftViewsConfig
from raydet.families.detection.soft_views import FILL, OwnGeometry, recolored, shear_factor
from raydet.randomness import stream
from raydet.records import Target
from raydet.vision.geometry import View

VIEWS = ViewsConfig(max_long_side=200)


def picture(height: int = 60, width: int = 80) -> torch.Tensor:
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=stream(0, "picture"))


def dotted(at: tuple[int, int], height: int = 80, width: int = 100) -> torch.Tensor:
    """A black image with one white square of 9 pixels around a place."""
    pixels = torch.full((3, height, width), 0, dtype=torch.uint8)
    y, x = at
    pixels[:, y - 4 : y + 5, x - 4 : x + 5] = 255
    return pixels


def student(own: SoftViewsConfig, pixels: torch.Tensor, number: int) -> tuple[torch.Tensor, View]:
    recipe = OwnGeometry(VIEWS, own)
    seen = recipe.teacher(pixels, stream(0, "weak", number))
    look, view = recipe.student(seen, lambda: pixels, stream(0, "strong", number))
    return look.pixels, view


def test_labelled_images_enter_once_and_are_only_resized_flipped_and_recoloured():
    recipe = OwnGeometry(VIEWS, SoftViewsConfig(short_side=(30, 60)))
    assert recipe.roles == ("labeled",)
    copies, view = recipe.labeled(picture(), lambda purpose: stream(1, purpose))
    assert len(copies) == 1 and copies[0].pixels.shape == (3, view.height, view.width)
    assert view.is_axis_aligned and 30 <= view.height <= 60


def test_the_short_side_is_drawn_from_the_whole_range_and_no_further():
    recipe = OwnGeometry(ViewsConfig(max_long_side=1000), SoftViewsConfig(short_side=(30, 33)))
    heights = {recipe.teacher(picture(), stream(0, number))[1].height for number in range(60)}
    assert heights == {30, 31, 32, 33}


def test_teacher_and_student_have_geometries_of_their_own():
    own = SoftViewsConfig(short_side=(40, 80))
    recipe, pixels = OwnGeometry(VIEWS, own), picture()
    seen = [recipe.teacher(pixels, stream(0, "weak", number))[1] for number in range(20)]
    drawn = [student(own, pixels, number)[1] for number in range(20)]
    assert all(view.is_axis_aligned for view in seen)
    assert sum(not view.is_axis_aligned for view in drawn) > 5  # rotations and shears: half of the operations
    assert all(a != b for a, b in zip(seen, drawn, strict=True))


def test_equal_streams_give_equal_views():
    own, pixels = SoftViewsConfig(short_side=(40, 80)), picture()
    first, second = student(own, pixels, 7), student(own, pixels, 7)
    assert torch.equal(first[0], second[0]) and first[1] == second[1]


@given(number=st.integers(0, 10_000), y=st.integers(20, 59), x=st.integers(20, 79))
@settings(max_examples=60, deadline=None)
def test_what_is_in_the_picture_goes_where_the_view_says(number: int, y: int, x: int):
    own = SoftViewsConfig(short_side=(70, 100), color_operations=("identity",), erasures=0)
    pixels, view = student(own, dotted((y, x)), number)
    white = (pixels[0] > 200).nonzero()
    (box,) = view.to_view(torch.tensor([[x - 4.0, y - 4.0, x + 5.0, y + 5.0]]))
    centre = [(float(box[1]) + float(box[3])) / 2, (float(box[0]) + float(box[2])) / 2]
    inside = 8 < centre[0] < view.height - 8 and 8 < centre[1] < view.width - 8
    if inside:
        found = (white.float() + 0.5).mean(dim=0).tolist()
        assert found == pytest.approx(centre, abs=0.8)


@given(number=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_boxes_travel_from_teacher_to_student_and_back_around_themselves(number: int):
    # Each way puts an upright box around warped corners: the way back contains what it started from, where not clipped.
    own = SoftViewsConfig(short_side=(70, 100))
    recipe, pixels = OwnGeometry(VIEWS, own), picture(80, 100)
    weak = recipe.teacher(pixels, stream(0, "weak", number))[1]
    strong = student(own, pixels, number)[1]
    a, b = (ViewedImage("x", pixels, view, Target.empty(), "r", 0) for view in (weak, strong))
    middle = weak.to_view(torch.tensor([[45.0, 35.0, 55.0, 45.0]]))
    (there,) = into(a, b, middle).tolist()
    ((x1, y1, x2, y2),) = into(b, a, torch.tensor([there])).tolist()
    (expected,) = middle.tolist()
    assert x1 <= expected[0] + 1e-3 and y1 <= expected[1] + 1e-3
    assert x2 >= expected[2] - 1e-3 and y2 >= expected[3] - 1e-3
    if strong.is_axis_aligned:
        assert [x1, y1, x2, y2] == pytest.approx(expected, abs=1e-3)


def test_erasures_are_grey_rectangles_and_edit_no_box():
    own = SoftViewsConfig(short_side=(80, 80), color_operations=("identity",), translate=0, rotate_degrees=0)
    own = own.model_copy(update={"shear_degrees": 0.0, "erase_side": 0.5})
    pixels = torch.zeros(3, 80, 100, dtype=torch.uint8)
    grey = [int((student(own, pixels, number)[0] == FILL).sum()) / pixels.numel() for number in range(40)]
    assert min(grey) >= 0 and max(grey) > 0.1  # four rectangles of at most a quarter of the image
    assert max(grey) < 0.8
    assert all(student(own, pixels, number)[1].is_axis_aligned for number in range(5))
    none = own.model_copy(update={"erasures": 0})
    assert int((student(none, pixels, 3)[0] == FILL).sum()) == 0


def test_colour_operations_have_the_published_strengths():
    grey = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    # brightness of strength 5: times 1.8 * 5 / 10 + .1 = 1.0; of 9: 1.72; of 1: .28
    assert [int(recolored(grey, "brightness", level)[0, 0, 0]) for level in (1, 5, 9)] == [28, 100, 172]
    # solarize: from int(25.6 * 3) = 76 on inverted: 255 - 100; from 128 on: not
    assert [int(recolored(grey, "solarize", level)[0, 0, 0]) for level in (3, 5)] == [155, 100]
    # posterize of strength 9: 4 - int(3.6) = 1 bit; of 1: 4 bits: 100 = 0b1100100 -> 0b1100000
    assert [int(recolored(grey, "posterize", level)[0, 0, 0]) for level in (1, 9)] == [96, 0]
    assert torch.equal(recolored(grey, "identity", 9), grey)


def test_solarize_inverts_from_the_published_grey_levels_on():
    ramp = torch.arange(256, dtype=torch.uint8).repeat(3, 1, 1)
    lowest = [int((recolored(ramp, "solarize", level) != ramp)[0, 0].nonzero()[0]) for level in range(1, 10)]
    # int(level * 256 / 10), and a level equal to it is inverted
    assert lowest == [25, 51, 76, 102, 128, 153, 179, 204, 230]


def test_shear_takes_the_hyperbolic_tangent_of_the_angle():
    assert shear_factor(30.0) == pytest.approx(math.tanh(math.pi / 6))  # .4805, where tan gives .5774


@pytest.mark.parametrize(
    ("given", "said"),
    [({"short_side": (60, 40)}, "must not exceed"), ({"color_operations": ()}, "write \\[identity\\]")],
)
def test_views_that_cannot_be_meant_are_refused(given: dict[str, object], said: str):
    with pytest.raises(ValueError, match=said):
        SoftViewsConfig(**given)
