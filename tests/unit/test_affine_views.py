"""Views that turn, shear and shift; and that those which do not are computed as if scales and shifts stood alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raydet.vision.geometry import View, boxes_into_view, warp
from tests.helpers import scaled

upright = st.one_of(
    st.tuples(st.just("resize"), st.integers(1, 1400), st.integers(1, 1400)),
    st.tuples(st.just("flip"), st.booleans(), st.booleans()),
)
turns = st.one_of(
    st.tuples(st.just("rotate"), st.floats(-180, 180), st.none()),
    st.tuples(st.just("shear"), st.floats(-0.6, 0.6), st.floats(-0.6, 0.6)),
    st.tuples(st.just("shift"), st.floats(-200, 200), st.floats(-200, 200)),
    st.tuples(st.just("scale"), st.floats(0.5, 2), st.floats(0.5, 2)),
)
boxes = st.lists(st.tuples(*[st.floats(-100, 5000, width=32)] * 4), max_size=4)


@dataclass
class Alone:
    """Scales and shifts of x and y on their own, each operation spelt out: what upright views must equal to the bit."""

    sx: float
    tx: float
    sy: float
    ty: float
    height: int
    width: int

    def follow(self, name: str, p: int, q: int) -> Alone:
        if name == "resize":
            fx, fy = q / self.width, p / self.height
            return Alone(self.sx * fx, self.tx * fx, self.sy * fy, self.ty * fy, p, q)
        sx, tx = (-self.sx, self.width - self.tx) if p else (self.sx, self.tx)
        sy, ty = (-self.sy, self.height - self.ty) if q else (self.sy, self.ty)
        return Alone(sx, tx, sy, ty, self.height, self.width)

    def to_view(self, found: Tensor) -> Tensor:
        return self.mapped(found, self.sx, self.tx, self.sy, self.ty)

    def to_original(self, found: Tensor) -> Tensor:
        return self.mapped(found, 1 / self.sx, -self.tx / self.sx, 1 / self.sy, -self.ty / self.sy)

    @staticmethod
    def mapped(found: Tensor, sx: float, tx: float, sy: float, ty: float) -> Tensor:
        x = found[:, 0::2].double() * sx + tx
        y = found[:, 1::2].double() * sy + ty
        return torch.stack([x.amin(1), y.amin(1), x.amax(1), y.amax(1)], dim=1).to(found.dtype)


def followed(view: View, name: str, p: float, q: float) -> View:
    if name == "resize":
        return view.resized(int(p), int(q))
    if name == "flip":
        return view.flipped(horizontal=bool(p), vertical=bool(q))
    if name == "rotate":
        return view.rotated(p)
    if name == "scale":
        return scaled(view, p, q)
    return {"shear": view.sheared, "shift": view.shifted}[name](p, q)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@given(st.integers(1, 4096), st.integers(1, 4096), st.lists(upright, max_size=5), boxes)
@settings(max_examples=300)
def test_upright_views_are_computed_as_if_x_and_y_stood_alone(height, width, steps, rows) -> None:
    view, alone = View.identity(height, width), Alone(1.0, 0.0, 1.0, 0.0, height, width)
    for step in steps:
        view, alone = followed(view, *step), alone.follow(*step)
    assert view.is_axis_aligned and (view.height, view.width) == (alone.height, alone.width)
    assert (view.matrix[0], view.matrix[2], view.matrix[4], view.matrix[5]) == (alone.sx, alone.tx, alone.sy, alone.ty)
    for dtype in (torch.float32, torch.float64):  # the second shows every bit of the arithmetic
        found = torch.tensor(rows, dtype=dtype).reshape(-1, 4)
        assert same_bits(view.to_view(found), alone.to_view(found))
        assert same_bits(view.to_original(found), alone.to_original(found))


@given(st.lists(st.one_of(upright, turns), max_size=6), st.floats(0, 300), st.floats(0, 200))
@settings(max_examples=300)
def test_points_come_back_from_any_chain_of_operations(steps, x: float, y: float) -> None:
    view = View.identity(200, 300)
    for name, p, q in steps:  # no view so small that float32 pixels of it are too coarse to come back from
        view = followed(view, name, max(p, 64) if name == "resize" else p, max(q, 64) if name == "resize" else q)
    point = torch.tensor([[x, y, x, y]])
    assert torch.allclose(view.to_original(view.to_view(point)), point, atol=1e-3, rtol=0)
    assert torch.allclose(view.then(view.inverted(200, 300)).to_view(point), point, atol=1e-3, rtol=0)


@given(st.lists(st.one_of(upright, turns), max_size=3), st.lists(st.one_of(upright, turns), max_size=3))
@settings(max_examples=100)
def test_a_view_after_a_view_maps_points_one_after_the_other(first, second) -> None:
    a = View.identity(200, 300)
    for step in first:
        a = followed(a, *step)
    b = View.identity(a.height, a.width)
    for step in second:
        b = followed(b, *step)
    point = torch.tensor([[70.0, 30.0, 70.0, 30.0]], dtype=torch.float64)
    both = a.then(b)
    assert torch.allclose(both.to_view(point), b.to_view(a.to_view(point)), atol=1e-6, rtol=1e-9)
    assert (both.height, both.width) == (b.height, b.width)


def test_a_quarter_turn_is_clockwise_about_the_centre_and_exact() -> None:
    # Frame 100 high, 200 wide, centre (100, 50). x_new = 100 - (y - 50) = 150 - y, y_new = 50 + (x - 100) = x - 50.
    view = View.identity(100, 200).rotated(90)
    box = torch.tensor([[120.0, 10.0, 180.0, 40.0]])
    assert view.to_view(box).tolist() == [[110.0, 70.0, 140.0, 130.0]]
    assert (view.height, view.width) == (100, 200)
    assert view.rotated(90).rotated(180) == View.identity(100, 200)
    assert view.rotated(-90) == View.identity(100, 200) and view == View.identity(100, 200).rotated(-270)


def test_a_turned_box_is_the_smallest_upright_box_around_its_corners() -> None:
    # A square of side 20 about the centre (50, 50), turned by 45 degrees: half its diagonal, 10 * sqrt 2, on each side.
    half = 10 * math.sqrt(2)
    turned = View.identity(100, 100).rotated(45).to_view(torch.tensor([[40.0, 40.0, 60.0, 60.0]]))
    assert turned[0].tolist() == pytest.approx([50 - half, 50 - half, 50 + half, 50 + half], abs=1e-5)


def test_a_shear_moves_rows_and_columns_about_the_centre() -> None:
    box = torch.tensor([[40.0, 10.0, 60.0, 90.0]])
    # Centre (50, 50). x_new = x + .5 (y - 50): the upper corners go left by 20, the lower ones right by 20.
    assert View.identity(100, 100).sheared(x=0.5).to_view(box).tolist() == [[20.0, 10.0, 80.0, 90.0]]
    # y_new = y + .5 (x - 50): the left corners rise by 5, the right ones sink by 5.
    assert View.identity(100, 100).sheared(y=0.5).to_view(box).tolist() == [[40.0, 5.0, 60.0, 95.0]]
    # Along x first: corners (20, 10), (40, 10), (60, 90), (80, 90); then y: 10 - 15, 10 - 5, 90 + 5, 90 + 15.
    assert View.identity(100, 100).sheared(0.5, 0.5).to_view(box).tolist() == [[20.0, -5.0, 80.0, 105.0]]


def test_a_shift_and_a_crop_change_what_they_say() -> None:
    start, box = View.identity(100, 200), torch.tensor([[20.0, 40.0, 60.0, 80.0]])
    assert start.shifted(0.1 * 200, -5).to_view(box).tolist() == [[40.0, 35.0, 80.0, 75.0]]
    crop = start.cropped(10, -5, 50, 120)  # ten rows less above, five columns of padding on the left
    assert crop.to_view(box).tolist() == [[25.0, 30.0, 65.0, 70.0]]
    assert (crop.height, crop.width) == (50, 120)
    assert start.shifted(3, 4).is_axis_aligned and crop.is_axis_aligned


def test_boxes_go_from_one_turned_view_to_another_in_one_step() -> None:
    teacher, student = View.identity(100, 100).rotated(30), View.identity(100, 100).rotated(75)
    box = torch.tensor([[40.0, 40.0, 60.0, 60.0]])
    half = 10 * math.sqrt(2)  # 45 degrees lie between them; by way of the original the box would grow twice
    across = teacher.inverted(100, 100).then(student).to_view(box)
    assert across[0].tolist() == pytest.approx([50 - half, 50 - half, 50 + half, 50 + half], abs=1e-4)


def test_no_boxes_are_turned_to_no_boxes() -> None:
    view = View.identity(30, 40).rotated(20)
    assert view.to_view(torch.zeros(0, 4)).shape == view.to_original(torch.zeros(0, 4)).shape == (0, 4)


def test_a_turned_box_is_clipped_and_dropped_where_it_leaves_the_view() -> None:
    view = View.identity(100, 200).rotated(90)  # x_new = 150 - y, y_new = x - 50, as above
    found = torch.tensor([[10.0, 10.0, 40.0, 40.0], [40.0, 10.0, 80.0, 40.0], [100.0, 0.0, 160.0, 30.0]])
    # y_new: -40..-10, outside; -10..30, cut at 0; 50..110, cut at 100.
    inside, usable = boxes_into_view(found, view, 1.0)
    assert usable.tolist() == [False, True, True]
    assert inside.tolist() == [[110.0, 0.0, 140.0, 30.0], [120.0, 50.0, 150.0, 100.0]]


@pytest.mark.parametrize(
    "matrix",
    [
        (0.0, 0.0, 3.0, 0.0, 1.0, 0.0),
        (1.0, 2.0, 0.0, 2.0, 4.0, 0.0),
        (0.1, 0.7, 0.0, 0.3, 2.1, 0.0),  # singular but for the rounding of its products
        (1.0, 0.0, math.nan, 0.0, 1.0, 0.0),
        (math.inf, 0.0, 0.0, 0.0, 1.0, 0.0),
    ],
)
def test_a_map_without_a_way_back_is_refused(matrix) -> None:
    with pytest.raises(ValueError, match="singular or not finite"):
        View(matrix, 10, 10)


def test_equal_views_are_one_key() -> None:
    assert len({View.identity(8, 9).rotated(10), View.identity(8, 9).rotated(10), View.identity(8, 9)}) == 2


def test_warping_by_nothing_a_flip_a_quarter_turn_and_a_shift_moves_pixels_exactly() -> None:
    pixels = torch.randint(0, 256, (3, 37, 53), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    start = View.identity(37, 53)
    assert torch.equal(warp(pixels, start), pixels)
    assert torch.equal(warp(pixels, start.flipped(horizontal=True)), pixels.flip(2))
    assert torch.equal(warp(pixels[:, :, :37], View.identity(37, 37).rotated(90)), pixels[:, :, :37].rot90(-1, (1, 2)))
    moved = warp(pixels, start.shifted(5, -3), fill=(7, 125, 255))
    assert torch.equal(moved[:, :34, 5:], pixels[:, 3:, :48])
    assert torch.equal(moved[:, 34:], torch.tensor([7, 125, 255], dtype=torch.uint8)[:, None, None].expand(3, 3, 53))
    padded = warp(pixels, start.cropped(-2, -1, 41, 55), fill=9)
    assert torch.equal(padded[:, 2:39, 1:54], pixels) and (padded[:, :2] == 9).all() and (padded[:, :, 54:] == 9).all()


@given(
    st.floats(-180, 180),
    st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)),
    st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
    st.tuples(st.floats(0.8, 1.25), st.floats(0.8, 1.25)),
)
@settings(max_examples=100)
def test_a_warped_rectangle_is_where_its_warped_box_is(degrees, shear, shift, scale) -> None:
    view = scaled(View.identity(24, 32).rotated(degrees).sheared(*shear), *scale).shifted(*shift)
    view = view.cropped(-30, -30, 84, 92)  # so that all of it is seen
    pixels = torch.zeros(3, 24, 32, dtype=torch.uint8)
    pixels[:, 6:16, 12:24] = 255
    fine = 8  # steps per pixel of the view, so that the pixel grid adds no more than an eighth
    inside = warp(pixels, view.resized(84 * fine, 92 * fine))[0] >= 128
    rows, columns = (torch.where(inside.any(axis))[0] for axis in (1, 0))
    seen = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / fine
    box = view.to_view(torch.tensor([[12.0, 6.0, 24.0, 16.0]]))[0]
    # Between pixels, the corner of a rectangle is a quarter bright: where it is half, the tip is blunt by up to .41 px.
    assert (seen - box).abs().max() < 1
    # It is as blunt on either side, so the middle is where the box has its own.
    assert ((seen[:2] + seen[2:]) / 2 - (box[:2] + box[2:]) / 2).abs().max() < 0.15
