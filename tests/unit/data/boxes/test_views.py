from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.config.box_data import ViewsConfig
from raydet.families.detection.views import eval_view, strong_view, weak_view
from raydet.randomness import stream
from raydet.vision.geometry import View

PLAIN: dict[str, Any] = {
    "color_jitter": 0.0,
    "grayscale": 0.0,
    "blur": 0.0,
    "erase": (0.0, 0.0, 0.0),
    "horizontal_flip": 0.0,
    "short_side": (64,),
}


def views(**changes: Any) -> ViewsConfig:
    return ViewsConfig(**(PLAIN | changes))


def colourful(height: int = 48, width: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=stream(0, "test"))


@given(
    height=st.integers(20, 300),
    width=st.integers(20, 300),
    short_side=st.integers(20, 300),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80)
def test_boxes_travel_to_the_weak_view_and_back(
    height: int, width: int, short_side: int, corners: tuple[float, ...], seed: int
) -> None:
    config = views(short_side=(short_side,), horizontal_flip=0.5, vertical_flip=0.5)
    pixels, view = weak_view(torch.zeros(3, height, width, dtype=torch.uint8), config, stream(seed, "v"))
    a, b, c, d = corners
    box = torch.tensor([[min(a, b) * width, min(c, d) * height, max(a, b) * width, max(c, d) * height]])
    there = view.to_view(box)
    assert pixels.shape == (3, view.height, view.width)
    assert ((there >= -1e-3) & (there <= torch.tensor([view.width, view.height] * 2) + 1e-3)).all()
    assert torch.allclose(view.to_original(there), box, atol=1e-3, rtol=0)


@given(
    left=st.integers(4, 80),
    top=st.integers(4, 60),
    w=st.integers(8, 40),
    h=st.integers(8, 40),
    short_side=st.integers(60, 260),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40)
def test_the_mapped_box_is_where_the_pixels_are(
    left: int, top: int, w: int, h: int, short_side: int, seed: int
) -> None:
    pixels = torch.zeros(3, 110, 130, dtype=torch.uint8)
    pixels[:, top : top + h, left : left + w] = 255
    config = views(short_side=(short_side,), horizontal_flip=0.5, vertical_flip=0.5)
    viewed, view = weak_view(pixels, config, stream(seed, "v"))
    rows, columns = (viewed[0] > 127).nonzero(as_tuple=True)
    seen = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=torch.float32)
    mapped = view.to_view(torch.tensor([[left, top, left + w, top + h]], dtype=torch.float32))[0]
    assert (seen - mapped).abs().max() <= 1


def test_the_short_edge_gets_the_drawn_length_and_the_long_edge_its_cap() -> None:
    square = weak_view(torch.zeros(3, 100, 200, dtype=torch.uint8), views(short_side=(50,)), stream(0, "v"))[1]
    assert (square.height, square.width) == (50, 100)
    capped = views(short_side=(50,), max_long_side=80)
    # 200 -> 80 is a factor 0.4; 100 * 0.4 = 40
    view = weak_view(torch.zeros(3, 100, 200, dtype=torch.uint8), capped, stream(0, "v"))[1]
    assert (view.height, view.width) == (40, 80)


def test_every_short_side_is_drawn_equally_often() -> None:
    config = views(short_side=(16, 24, 32))
    tiny = torch.zeros(3, 8, 8, dtype=torch.uint8)
    heights = [weak_view(tiny, config, stream(0, "v", i))[1].height for i in range(600)]
    for side in config.short_side:
        assert abs(heights.count(side) - 200) < 70  # 6 standard deviations of binomial(600, 1/3)


@pytest.mark.parametrize(("name", "axis"), [("horizontal_flip", 2), ("vertical_flip", 1)])
def test_a_certain_flip_mirrors_the_image(name: str, axis: int) -> None:
    pixels = colourful(64, 80)
    flipped, _ = weak_view(pixels, views(**{name: 1.0}), stream(0, "v"))
    kept, view = weak_view(pixels, views(), stream(0, "v"))
    assert torch.equal(kept, pixels) and view == View.identity(64, 80)
    assert torch.equal(flipped, pixels.flip(axis))


def test_the_evaluation_view_only_resizes() -> None:
    pixels, view = eval_view(colourful(50, 100), ViewsConfig(eval_short_side=100, horizontal_flip=1.0))
    assert pixels.shape == (3, 100, 200)
    assert view.matrix == (2, 0, 0, 0, 2, 0)


def test_a_strong_view_with_every_probability_zero_is_the_weak_view() -> None:
    pixels = colourful()
    assert torch.equal(strong_view(pixels, views(), stream(0, "s")), pixels)


@pytest.mark.parametrize(
    "change", [{"color_jitter": 1.0}, {"grayscale": 1.0}, {"blur": 1.0}, {"erase": (1.0, 1.0, 1.0)}]
)
def test_each_strong_operation_keeps_the_shape_and_leaves_its_input_alone(change: dict[str, Any]) -> None:
    pixels = colourful()
    before = pixels.clone()
    strong = strong_view(pixels, views(**change), stream(0, "s"))
    assert torch.equal(pixels, before)
    assert strong.shape == pixels.shape and strong.dtype == torch.uint8 and strong.is_contiguous()
    assert not torch.equal(strong, pixels)


def test_one_seed_gives_one_strong_view() -> None:
    config = ViewsConfig()
    pixels = colourful()
    for seed in range(10):
        again = [strong_view(pixels, config, stream(seed, "s")) for _ in range(2)]
        assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], strong_view(pixels, config, stream(77, "s")))


def test_nothing_is_drawn_from_the_global_generators() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    strong_view(weak_view(colourful(), ViewsConfig(), stream(0, "w"))[0], ViewsConfig(), stream(0, "s"))
    assert torch.equal(torch.rand(1), expected)


def test_gray_views_have_three_equal_channels() -> None:
    gray = strong_view(colourful(), views(grayscale=1.0), stream(0, "s"))
    assert torch.equal(gray[0], gray[1]) and torch.equal(gray[1], gray[2])


def test_blur_spreads_a_point_by_the_drawn_sigma() -> None:
    point = torch.zeros(3, 41, 41, dtype=torch.uint8)
    point[:, 18:23, 18:23] = 255
    blurred = strong_view(point, views(blur=1.0, blur_sigma=(2.0, 2.0)), stream(0, "s"))[0].double()
    offset = torch.arange(41) - 20.0
    variance = float((blurred.sum(0) * offset**2).sum() / blurred.sum())
    # A square of 5 px has variance (25 - 1) / 12 = 2 per axis, the blur adds sigma^2 = 4.
    assert variance == pytest.approx(6.0, rel=0.1)


def test_color_jitter_moves_brightness_by_at_most_two_fifths() -> None:
    flat = torch.full((3, 16, 16), 100, dtype=torch.uint8)
    # Contrast, saturation and hue leave a flat gray image alone (rounding aside); brightness scales it by 0.6 to 1.4.
    levels = [int(strong_view(flat, views(color_jitter=1.0), stream(0, "s", i)).max()) for i in range(200)]
    assert 58 <= min(levels) < 70 and 130 < max(levels) <= 141


@pytest.mark.parametrize(("which", "low", "high"), [(0, 0.05, 0.2), (1, 0.02, 0.2), (2, 0.02, 0.2)])
def test_each_erasing_overwrites_the_stated_share_of_the_image(which: int, low: float, high: float) -> None:
    pixels = torch.zeros(3, 100, 120, dtype=torch.uint8)
    config = views(erase=tuple(float(i == which) for i in range(3)))
    shares = []
    for i in range(100):
        strong = strong_view(pixels, config, stream(0, "s", i))
        rows, columns = strong.amax(dim=0).nonzero(as_tuple=True)
        h, w = int(rows.max() - rows.min() + 1), int(columns.max() - columns.min() + 1)
        assert len(rows) > 0.95 * h * w  # one full rectangle of noise
        shares.append(h * w / (100 * 120))
    # Rounding both sides of a rectangle to whole pixels moves its share by a few per cent of itself.
    assert min(shares) > low * 0.85 and max(shares) < high * 1.1
    assert max(shares) - min(shares) > 0.5 * (high - low)


def test_erasing_happens_as_often_as_asked() -> None:
    pixels = torch.zeros(3, 32, 32, dtype=torch.uint8)
    config = views(erase=(0.7, 0.0, 0.0))
    erased = sum(int(strong_view(pixels, config, stream(0, "s", i)).any()) for i in range(400))
    assert abs(erased - 280) < 55  # 6 standard deviations of binomial(400, 0.7)
