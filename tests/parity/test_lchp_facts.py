"""The testable facts of LCHP, each with its numbers: attention, Algorithm 1, losses, views, metrics."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from raydet.families.localization.accuracy import best_ious
from raydet.families.localization.attention import AttentionRule, around, regions
from raydet.families.localization.boxes import cross_entropies, encode, squared_distance
from raydet.families.localization.model import bilinear_attention, signed_root
from raydet.families.localization.trunks import build_trunk
from raydet.families.localization.views import draw_strong, strong_boxes, strong_pixels
from raydet.randomness import stream

FIRST = torch.zeros(1, 5, 5)
FIRST[0, 1, 1] = FIRST[0, 1, 2] = 1
FIRST[0, 2, 1], FIRST[0, 4, 4], FIRST[0, 0, 0] = 0.8, 0.5, 0.1
MASKED = torch.zeros(1, 5, 5)
MASKED[0, 3, 3], MASKED[0, 3, 2] = 0.6, 0.5


def cells(attention: Tensor, threshold: float, *, side: int = 5) -> list[float]:
    return regions(attention, (side, side), AttentionRule(threshold, upsample=False)).boxes[0].tolist()


def test_fact_1_the_rectangle_holds_every_cell_above_the_threshold_and_the_last_one_too():
    # row, column; the .5 cell is not above .5, and max - min is 1
    assert cells(FIRST, 0.4) == [1, 1, 5, 5]
    assert cells(FIRST, 0.5) == [1, 1, 3, 3]
    assert cells(FIRST, 0.7) == [1, 1, 3, 3]
    assert cells(FIRST, 0.8) == [1, 1, 3, 2]


def test_fact_2_the_union_with_the_masked_images_rectangle():
    # .6 and .5 over their maximum: 1 and .833, both above .7
    assert cells(MASKED, 0.7) == [2, 3, 4, 4]
    first, second = (regions(each, (80, 80), AttentionRule(0.7, upsample=False)).boxes for each in (FIRST, MASKED))
    union = around(first, second)
    assert union.tolist() == [[16, 16, 64, 64]]  # [1, 1, 4, 4) in cells of 16 pixels
    assert encode(union / 80, "xywh")[0].tolist() == pytest.approx([0.2, 0.2, 0.6, 0.6])


def test_fact_3_enlarging_first_changes_the_rectangle():
    assert regions(FIRST, (80, 80), AttentionRule(0.7, upsample=True)).boxes[0].tolist() == [19, 19, 45, 42]
    assert cells(FIRST, 0.7, side=80) == [16, 16, 48, 48]


def test_fact_4_the_classification_loss_is_the_mean_of_both_cross_entropies():
    def logits(*shares: float) -> Tensor:
        return torch.tensor([[math.log(share), math.log(1 - share)] for share in shares])

    # (-ln .7 - ln .8 - ln .5 - ln .6) / 4 = (.356675 + .223144 + .693147 + .510826) / 4
    rows = cross_entropies(logits(0.7, 0.8), logits(0.5, 0.6), torch.tensor([0, 0]))
    assert float(rows.mean()) == pytest.approx(0.44595, abs=5e-6)


def test_fact_5_the_regression_loss_sums_over_coordinates_and_divides_by_all_images():
    said = torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.0, 1.0]])
    wanted = torch.tensor([[0.1, 0.2, 0.6, 0.5], [0.1, 0.1, 0.8, 0.8]])
    # .1^2 + .1^2 = .02 and .1^2 + .1^2 + .2^2 + .2^2 = .10; a mean over the four numbers is a quarter of that
    rows = squared_distance(said, wanted, "sum")
    assert rows.tolist() == pytest.approx([0.02, 0.10])
    assert float(rows.mean()) == pytest.approx(0.06)  # 20 x .06 = 1.2 in L_init
    assert float(squared_distance(said, wanted, "mean").mean()) == pytest.approx(0.015)  # PSOL: 50 x .015 = .75
    gates = torch.tensor([1.0, 0.0])
    assert float((rows * gates).sum() / len(rows)) == pytest.approx(0.01)  # .02 if it were divided by what is kept


def test_fact_6_signed_square_root_and_length():
    # (2, -3, 0, 1) / sqrt(14)
    rooted = signed_root(torch.tensor([[4.0, -9.0, 0.0, 1.0]]))[0]
    assert rooted.tolist() == pytest.approx([0.534522, -0.801784, 0.0, 0.267261], abs=1e-6)


@pytest.mark.parametrize(("side", "expected"), [(448, 26), (512, 30), (299, 17)])
def test_fact_7_mixed_6e_has_768_channels_and_these_sides(side: int, expected: int):
    with torch.device("meta"):
        trunk = build_trunk("inception_v3", (8, 8, 8, 8), whole=False)
        features = trunk(torch.zeros(1, 3, side, side))
    assert features.shape == (1, 768, expected, expected)
    assert bilinear_attention(torch.zeros(1, 32, 2, 2), torch.zeros(1, 768, 2, 2)).shape == (1, 24_576)


def test_fact_9_boxes_are_flipped_scaled_and_moved():
    box = torch.tensor([[0.1, 0.2, 0.5, 0.6]], dtype=torch.float64)
    neutral = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]

    def carried(**changes: float) -> list[float]:
        names = ("scale_x", "scale_y", "left", "top", "right", "bottom", "flip_x", "flip_y")
        values = [changes.get(name, value) for name, value in zip(names, neutral, strict=True)]
        return strong_boxes(box, torch.tensor([values], dtype=torch.float64))[0].tolist()

    assert carried(flip_x=1) == pytest.approx([0.5, 0.2, 0.9, 0.6])
    assert carried(flip_y=1) == pytest.approx([0.1, 0.4, 0.5, 0.8])
    assert carried(scale_x=1.2, scale_y=0.8) == pytest.approx([0.02, 0.26, 0.5, 0.58])
    # (.1 + .1) / 1.1, (.2 + .25) / 1.15, (.5 + .1) / 1.1, (.6 + .25) / 1.15
    moved = carried(top=0.25, right=0.0, bottom=-0.10, left=0.10)
    assert moved == pytest.approx([0.181818, 0.391304, 0.545455, 0.739130], abs=1e-6)


def test_fact_10_with_everything_off_the_strong_view_is_the_plain_one():
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.0, 1.0]])
    off = torch.stack([draw_strong(stream(0, i), scale=False, translation=False, flip=False) for i in range(2)])
    assert torch.allclose(strong_pixels(pixels, off), pixels, atol=1e-5)
    assert torch.allclose(strong_boxes(boxes, off), boxes)
    flips = torch.stack([draw_strong(stream(1, i), scale=False, translation=False, flip=True) for i in range(40)])
    assert flips[:, 6:].sum() > 0
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(40, 4)
    assert torch.allclose(strong_boxes(whole, flips), whole)


def test_fact_11_half_an_overlap_is_right():
    ious = best_ious(torch.tensor([[[0.0, 0, 10, 10]]]), [torch.tensor([[0.0, 0, 10, 5]])])
    assert float(ious) == 0.5
