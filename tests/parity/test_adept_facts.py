"""Facts about ADePT and SoCo with their numbers: what the papers and SoCo's code say, on examples worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from raydet.config.optim import OptimConfig
from raydet.config.proposal_data import ProposalViewsConfig
from raydet.families.pretraining.config import PretrainingModelConfig
from raydet.families.pretraining.methods.adept import carried
from raydet.families.pretraining.model import levels, pool_by_size
from raydet.families.pretraining.similarity import disagreement, keep_rate, swapped
from raydet.families.pretraining.views import three_views
from raydet.learning_rate import lr_at
from raydet.proposals.filters import Filters
from raydet.randomness import stream
from raydet.vision.matching import BACKGROUND, IGNORED, match
from raydet.vision.rpn import Rpn
from tests.parity.by_hand import boxes

BOUNDS = (48.0, 96.0, 192.0)


def test_selective_search_keeps_boxes_of_moderate_shape_and_size():
    # 640 x 480: sqrt(WH) = 554.26, so sqrt(wh) between .3 and .8 of it is 166.28 to 443.41 pixels
    keep = [(200, 150), (167, 166), (450, 150), (443, 443), (300, 100), (100, 300)]
    drop = [(166, 166), (600, 150), (450, 149), (500, 400), (444, 444), (640, 480)]
    given = np.array([[0, 0, w, h] for w, h in keep + drop], np.float64)
    kept, _, _ = Filters().kept(given, 640, 480)
    assert {(int(w), int(h)) for _, _, w, h in kept} == set(keep)


def test_a_box_is_pooled_from_the_level_of_its_size_in_its_own_view():
    # SoCo's corners are inclusive, [0, 0, 47, 47] has 48 pixels a side; here they are half-open
    sides = [48, 49, 96, 97, 192, 193, 224]
    said = levels(boxes(*[[0, 0, side, side] for side in sides]), BOUNDS)
    assert said.tolist() == [0, 1, 1, 2, 2, 3, 3]  # p2, p3, p3, p4, p4, p5, p5
    # SoCo's [20, 30, 119, 89] is 100 x 60: sqrt 77.46, p3; half of it 38.73, p2
    first = boxes([20, 30, 120, 90])
    assert levels(first, BOUNDS).tolist() == [1]
    assert levels(first / 2, BOUNDS).tolist() == [0]
    assert PretrainingModelConfig().level_bounds == BOUNDS


def test_a_view_of_224_pixels_has_12495_anchors():
    rpn = Rpn(PretrainingModelConfig(fpn_channels=8))
    maps = {str(i): torch.zeros(1, 8, side, side) for i, side in enumerate((56, 28, 14, 7))}
    scores = rpn(maps)
    assert scores.level_sizes == (9408, 2352, 588, 147)  # 56^2 x 3, ...
    assert len(scores.anchors) == 12_495
    cells = [scores.anchors[sum(scores.level_sizes[:level]) :][:3] for level in range(4)]
    sizes = [[((x2 - x1).item(), (y2 - y1).item()) for x1, y1, x2, y2 in cell] for cell in cells]
    # 24 / sqrt(.5) x 24 sqrt(.5) = 33.94 x 16.97, from corners at +-16.97, +-8.49, which torchvision rounds
    assert sizes[0] == [(34, 16), (24, 24), (16, 34)]
    assert sizes[3] == [(272, 136), (192, 192), (136, 272)]  # 271.53 x 135.76


def test_the_similarity_loss_of_two_boxes():
    half = 1 / math.sqrt(2)
    online = boxes([1, 0], [half, half])
    first, second = boxes([1, 0], [1, 0]), boxes([0, 1], [half, half])
    rows = disagreement(online, (first, second))
    # box 1: -2 x 1 - 2 x 0; box 2: -2 x .7071 - 2 x 1
    assert rows.tolist() == pytest.approx([-2.0, -3.4142], abs=1e-4)
    assert float(rows.mean()) == pytest.approx(-2.7071, abs=1e-4)


def test_agreement_is_minus_eight_and_right_angles_are_zero():
    same, other = boxes([3, 4]), boxes([-8, 6])  # lengths 5 and 10: only directions count
    both = disagreement(same, (2 * same, same)) + swapped(same, (same, 5 * same))
    assert both.tolist() == pytest.approx([-8.0])
    both = disagreement(same, (other, other)) + swapped(other, (same, same))
    assert both.tolist() == pytest.approx([0.0], abs=1e-6)


def test_no_gradient_reaches_the_target():
    online, target = boxes([1, 2]).requires_grad_(), boxes([2, 1]).requires_grad_()
    (disagreement(online, (target, target)) + swapped(target, (online, online))).sum().backward()
    assert target.grad is None
    assert online.grad is not None and online.grad.abs().sum() > 0


def test_the_target_keeps_more_and_more_of_itself():
    kept = [keep_rate(0.99, step, 100) for step in (0, 25, 50, 75, 100)]
    assert kept == pytest.approx([0.99, 0.991464, 0.995, 0.998536, 1.0], abs=1e-6)


def test_the_learning_rate_falls_along_half_a_cosine():
    optim = OptimConfig(lr=0.1, steps=100, warmup_steps=0, schedule="cosine")
    rates = [lr_at(step, optim, uses_unlabeled=False) for step in (0, 25, 50, 75, 100)]
    assert rates == pytest.approx([0.1, 0.085355, 0.05, 0.014645, 0.0], abs=1e-6)


def test_anchors_are_told_apart_by_their_overlap():
    anchor = boxes([0, 0, 48, 48])
    truth = boxes([0, 0, 48, 40], [0, 0, 48, 33], [0, 0, 60, 60], [24, 24, 72, 72], [10, 10, 90, 90])
    # 40 / 48; 33 / 48; 48^2 / 60^2; 24^2 / (2 x 48^2 - 24^2); 38^2 / (48^2 + 80^2 - 38^2)
    assert box_iou(anchor, truth)[0].tolist() == pytest.approx([0.8333, 0.6875, 0.64, 0.1429, 0.1989], abs=1e-4)
    matcher = Rpn(PretrainingModelConfig(fpn_channels=8)).matcher
    # beside an anchor that fits each box exactly, so that the first one is nobody's best
    said = [int(match(torch.cat([anchor, one[None]]), one[None], matcher)[0]) for one in truth]
    assert said == [0, IGNORED, IGNORED, BACKGROUND, BACKGROUND]
    # alone it is the best one of every box, and positive at any overlap
    assert [int(match(anchor, one[None], matcher)[0]) for one in truth] == [0, 0, 0, 0, 0]


def test_flipping_changes_no_level_and_the_third_view_has_halves_of_the_second_ones_boxes():
    views = ProposalViewsConfig(size=224, small_size=112)
    pixels = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8, generator=stream(0, "pixels"))
    proposals = boxes([30, 40, 200, 160], [100, 20, 390, 280], [0, 150, 130, 300], [50, 50, 340, 250])
    for seed in range(20):
        plain, mirrored = (
            three_views(pixels, proposals, views.model_copy(update={"horizontal_flip": p}), 4, stream(seed, "views"))
            for p in (0.0, 1.0)
        )
        for view in range(3):
            assert torch.equal(levels(plain.boxes[view], BOUNDS), levels(mirrored.boxes[view], BOUNDS))
        side = torch.tensor([[224.0, 224, 112]]).T
        assert torch.allclose(mirrored.boxes[..., 0], side - plain.boxes[..., 2], atol=1e-3)
        maybe = three_views(pixels, proposals, views, 4, stream(seed, "views"))  # V3 is flipped where V2 is
        for each in (plain, mirrored, maybe):
            assert torch.equal(2 * each.boxes[2], each.boxes[1])


def test_boxes_are_scaled_by_the_size_of_the_map_and_not_by_the_stride():
    # a view of 112 pixels has a coarsest map of 4 x 4 (3.5 by the stride): its right edge is the map's right edge
    own = PretrainingModelConfig(fpn_channels=1, roi_pool_size=4, roi_sampling_ratio=1)
    maps = [torch.zeros(1, 1, side, side) for side in (28, 14, 7)] + [torch.arange(4.0).expand(1, 1, 4, 4).clone()]
    own = own.model_copy(update={"level_bounds": (1.0, 2.0, 3.0)})  # so that the coarsest level has the box
    pooled = pool_by_size(maps, boxes([0, 0, 0, 112, 112]), 112, own)
    assert pooled[0, 0, 0].tolist() == pytest.approx([0, 1, 2, 3], abs=1e-5)  # by the stride: 0, 0.8, 1.7, 2.6


def test_a_box_of_one_view_is_where_another_shows_it():
    # The original to V1: x' = .5 x, y' = .25 y. To V2: x' = 2 x - 40, y' = y - 10. To V3, which is flipped:
    # x' = 30 - .5 x, y' = .5 y.
    maps = [[0.5, 0.0, 0.25, 0.0], [2.0, -40.0, 1.0, -10.0], [-0.5, 30.0, 0.5, 0.0]]
    matrices = torch.tensor([[[1.0, 0, 1.0, 0]] * 3, maps], dtype=torch.float64)
    rois = torch.tensor([[1.0, 12.0, 5.0, 20.0, 15.0]])  # in V1: x 24 to 40 and y 20 to 60 of the original
    assert carried(rois, matrices, 0, 0, 64).tolist() == [[1, 12, 5, 20, 15]]
    assert carried(rois, matrices, 0, 1, 64).tolist() == [[1, 8, 10, 40, 50]]
    assert carried(rois, matrices, 0, 2, 32).tolist() == [[1, 10, 10, 18, 30]]  # 30 - 20, 30 - 12
    assert carried(rois, matrices, 0, 1, 32).tolist() == [[1, 8, 10, 32, 32]]  # clipped
    back = carried(carried(rois, matrices, 0, 1, 64), matrices, 1, 0, 64)
    assert torch.allclose(back, rois)
    own = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]])
    assert carried(torch.cat([own, rois]), matrices, 0, 1, 64).tolist() == [[0, 1, 2, 3, 4], [1, 8, 10, 40, 50]]
