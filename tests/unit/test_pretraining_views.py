"""Three views of an image and the boxes in them: geometry by hand, and what holds for any image and any draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raydet.config.proposal_data import ProposalViewsConfig
from raydet.families.pretraining.photometrics import recoloured
from raydet.families.pretraining.views import ThreeViews, crop_box, cut_out, jittered, made, plain_view, three_views
from raydet.randomness import stream
from raydet.vision.geometry import View

PLAIN = ProposalViewsConfig(
    size=64, small_size=32, color_jitter=0, grayscale=0, blur=(0, 0, 0), solarize=(0, 0, 0), horizontal_flip=0
)


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=stream(seed, "pixels"))


def boxes(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def views(proposals: Tensor, seed: int = 0, config: ProposalViewsConfig = PLAIN, number: int = 4) -> ThreeViews:
    return three_views(noise(60, 90), proposals, config, number, stream(seed, "views"))


def test_boxes_are_where_each_view_shows_them():
    # a white rectangle on black: it must fill its box in every view
    pixels = torch.zeros(3, 60, 90, dtype=torch.uint8)
    pixels[:, 20:40, 30:75] = 255
    for seed in range(10):
        config = PLAIN.model_copy(update={"horizontal_flip": 0.5, "v3_mode": "independent_crop"})
        found = three_views(pixels, boxes([30, 20, 75, 40]), config, 1, stream(seed, "views"))
        for shown, (x1, y1, x2, y2) in zip(found.pixels, found.boxes[:, 0].tolist(), strict=True):
            inside = shown[:, round(y1) + 1 : round(y2) - 1, round(x1) + 1 : round(x2) - 1].float()
            assert inside.numel() > 0 and inside.mean() > 240
            outside = torch.ones(shown.shape[1:], dtype=torch.bool)
            outside[max(0, round(y1) - 1) : round(y2) + 1, max(0, round(x1) - 1) : round(x2) + 1] = False
            assert not outside.any() or float(shown[:, outside].float().mean()) < 15


def test_the_first_view_is_the_whole_image():
    found = views(boxes([9, 6, 45, 30]))
    # 64 / 90 in x, 64 / 60 in y
    assert found.boxes[0, 0].tolist() == pytest.approx([6.4, 6.4, 32.0, 32.0])
    assert [tuple(each.shape) for each in found.pixels] == [(3, 64, 64), (3, 64, 64), (3, 32, 32)]


def test_a_box_has_one_number_in_all_views():
    proposals = boxes([0, 0, 50, 50], [20, 10, 80, 50], [40, 20, 90, 60], [10, 10, 70, 55], [30, 0, 60, 60])
    found = views(proposals, number=3)
    assert len(set(found.ids.tolist())) == 3
    for view, side, rows in zip(found.views, (64, 64, 32), found.boxes, strict=True):
        wanted = view.to_view(proposals[found.ids - 1]).clamp(0, side)
        assert torch.allclose(rows, wanted)


def test_with_too_few_proposals_they_are_repeated():
    found = views(boxes([10, 10, 80, 50], [20, 5, 70, 55]), number=5)
    assert found.ids.tolist()[:2] in ([1, 2], [2, 1])
    assert set(found.ids.tolist()) == {1, 2}
    assert not found.is_fallback


def test_a_crop_is_drawn_again_until_it_shows_enough_boxes():
    # two boxes in opposite corners: a crop of half the image or a little more often loses one of them
    corners = boxes([0, 0, 20, 20], [70, 40, 90, 60])
    config = PLAIN.model_copy(update={"crop_area": (0.5, 0.95)})
    counts = []
    for tries in (1, 6):
        own = config.model_copy(update={"crop_tries": tries})
        counts.append(sum(len(views(corners, seed, own, 2).ids.unique()) == 2 for seed in range(40)))
    assert counts[0] < 25 < 35 < counts[1]


def test_where_no_proposal_is_left_the_whole_view_is_the_box():
    # a proposal without an inside is in no view
    found = views(boxes([10, 10, 10, 40]), number=3)
    assert found.is_fallback
    assert found.ids.tolist() == [1, 1, 1]
    assert found.boxes[:, 0].tolist() == [[0, 0, 64, 64], [0, 0, 64, 64], [0, 0, 32, 32]]


def test_views_are_a_function_of_the_stream_alone():
    proposals = boxes([0, 0, 50, 50], [20, 10, 80, 50], [40, 20, 90, 60])
    config = ProposalViewsConfig(size=64, small_size=32, box_jitter=0.5, box_cutout=0.5)
    first, second, other = (views(proposals, seed, config) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.pixels, second.pixels, strict=True))
    assert torch.equal(first.boxes, second.boxes) and torch.equal(first.ids, second.ids)
    assert not all(torch.equal(a, b) for a, b in zip(first.pixels, other.pixels, strict=True))


def test_independent_crops_differ_and_share_their_boxes():
    proposals = boxes([30, 20, 60, 40], [25, 15, 70, 45])
    config = PLAIN.model_copy(update={"v3_mode": "independent_crop"})
    found = views(proposals, 3, config, number=2)
    assert found.views[1].matrix[0] != 2 * found.views[2].matrix[0]
    assert sorted(found.ids.tolist()) == [1, 2]


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 400), st.integers(20, 400), st.integers(0, 10_000))
def test_a_crop_lies_in_its_image_and_has_its_share_of_the_area(height: int, width: int, seed: int):
    top, left, h, w = crop_box(height, width, (0.5, 1.0), (0.75, 4 / 3), stream(seed, "crop"))
    assert min(top, left) >= 0 and top + h <= height and left + w <= width and h > 0 and w > 0
    slack = (h + w + 1) / (height * width)  # of rounding
    if 0.75 <= width / height <= 4 / 3:
        assert 0.5 - slack <= h * w / (height * width) <= 1 + slack
    assert 0.75 - 0.1 <= w / h <= 4 / 3 + 0.1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.integers(1, 6))
def test_boxes_lie_in_their_views(seed: int, independent: bool, number: int):
    rng = stream(seed, "boxes")
    corner = torch.rand(5, 2, generator=rng) * torch.tensor([80.0, 50.0])
    proposals = torch.cat([corner, corner + 5 + 40 * torch.rand(5, 2, generator=rng)], dim=1).clamp(max=60)
    mode = "independent_crop" if independent else "downsample_v2"
    config = PLAIN.model_copy(update={"v3_mode": mode, "box_jitter": 0.5})
    found = views(proposals, seed, config, number)
    assert found.boxes.shape == (3, number, 4)
    for rows, side in zip(found.boxes, (64, 64, 32), strict=True):
        assert (rows >= 0).all() and (rows <= side).all()
        assert ((rows[:, 2:] - rows[:, :2]) >= 1 - 1e-4).all()


def test_jitter_moves_boxes_by_a_tenth_of_their_sides_at_most():
    config = PLAIN.model_copy(update={"box_jitter": 1.0})
    view, box = View.identity(64, 64), boxes([20, 20, 40, 30])
    moved = torch.cat([jittered(box, view, config, stream(seed, "jitter")) for seed in range(200)])
    low, high = moved.amin(dim=0), moved.amax(dim=0)
    # x1: 20 +- 2, y1: 20 +- 1; sides 20 and 10, +- 10 %
    assert low[0] >= 18 and high[0] <= 22 and low[1] >= 19 and high[1] <= 21
    assert high[0] - low[0] > 3 and high[1] - low[1] > 1.5
    sides = moved[:, 2:] - moved[:, :2]
    assert (sides[:, 0] >= 18 - 1e-4).all() and (sides[:, 0] <= 22 + 1e-4).all()
    assert torch.equal(jittered(box, view, PLAIN, stream(0, "jitter")), box)


def test_a_cutout_is_a_black_square_inside_the_box():
    white = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    config = PLAIN.model_copy(update={"box_cutout": 1.0})
    box = boxes([10, 10, 50, 40])
    for seed in range(20):
        shown = cut_out(white, box, config, stream(seed, "cutout"))
        rows, columns = torch.where(shown[0] == 0)
        assert rows.min() >= 10 and rows.max() < 40 and columns.min() >= 10 and columns.max() < 50
        # 10 to 30 % of 40 x 30
        assert 100 <= len(rows) <= 380
    assert torch.equal(cut_out(white, box, PLAIN, stream(0, "cutout")), white)
    assert white.min() == 255  # what was given is left as it was


def test_each_change_of_colour_happens_to_the_views_that_it_is_for():
    gray = torch.full((3, 32, 32), 200, dtype=torch.uint8)
    only = PLAIN.model_copy(update={"solarize": (0.0, 1.0, 1.0)})
    said = [int(recoloured(gray, only, number, stream(0, "colour"))[0, 0, 0]) for number in range(3)]
    assert said == [200, 55, 55]  # 255 - 200
    sharp = noise(32, 32)
    only = PLAIN.model_copy(update={"blur": (1.0, 0.0, 0.0), "blur_sigma": (14.0, 14.0)})
    said = [float(recoloured(sharp, only, number, stream(0, "colour")).float().std()) for number in range(3)]
    assert said[0] < said[1] / 2 and said[1] == said[2] == float(sharp.float().std())
    only = PLAIN.model_copy(update={"grayscale": 1.0})
    shown = recoloured(sharp, only, 1, stream(0, "colour"))
    assert torch.equal(shown[0], shown[1]) and torch.equal(shown[1], shown[2])
    only = PLAIN.model_copy(update={"color_jitter": 1.0})
    assert not torch.equal(recoloured(sharp, only, 0, stream(0, "colour")), sharp)
    assert torch.equal(recoloured(sharp, PLAIN, 0, stream(0, "colour")), sharp)


def test_a_view_of_another_is_its_pixels():
    pixels = noise(40, 40)
    crop = View.identity(40, 40).cropped(5, 8, 20, 24).flipped(horizontal=True)
    assert torch.equal(made(pixels, crop), pixels[:, 5:25, 8:32].flip(2))
    shown, view = plain_view(pixels, 40)
    assert torch.equal(shown, pixels) and view.matrix == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    assert np.isclose(view.height, 40)
