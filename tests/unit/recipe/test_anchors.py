"""Anchors from box sizes: recall as the network has it, and the choice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from raydet.families.detection.recipe.anchors import (
    RATIOS,
    Anchors,
    box_ratios,
    choose,
    clustered,
    fewest,
    recall,
    shared_out,
    spread,
)


def square(side: float, centre: float = 64.0) -> list[float]:
    return [centre - side / 2, centre - side / 2, centre + side / 2, centre + side / 2]


def test_an_anchor_of_the_boxs_size_on_its_cell_is_found_and_another_is_not():
    boxes = np.array([square(32), square(22), square(64)])
    # 22 in 32: 484 / 1024 = .47; 32 in 64: 1024 / 4096 = .25
    assert recall(boxes, (8,), ((32.0,),), (1.0,)) == pytest.approx((1 / 3, 1 / 3))


def test_a_box_between_the_cells_is_met_less_well():
    # 4 pixels off both ways: 12 x 12 = 144 in common of 2 x 256 - 144 = 368: IoU .39
    assert recall(np.array([square(16, 68.0)]), (8,), ((16.0,),), (1.0,)) == (0.0, 0.0)
    assert recall(np.array([square(16, 68.0)]), (4,), ((16.0,),), (1.0,)) == (1.0, 1.0)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.floats(40, 200), st.floats(40, 200), st.floats(6, 80), st.floats(6, 80)), min_size=1, max_size=8
    )
)
def test_recall_is_that_of_torchvisions_anchors(given_boxes: list[tuple[float, float, float, float]]):
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in given_boxes])
    sizes = ((17.0, 30.0), (41.0, 77.0))
    generator = AnchorGenerator(sizes, (RATIOS, RATIOS))
    generator.set_cell_anchors(torch.float32, torch.device("cpu"))
    grids, strides = [[40, 40], [20, 20]], [[torch.tensor(8)] * 2, [torch.tensor(16)] * 2]
    anchors = torch.cat(generator.grid_anchors(grids, strides))
    best = box_iou(torch.from_numpy(boxes).float(), anchors).max(dim=1).values.numpy()
    assume_clear = np.abs(best[:, None] - [0.5, 0.7]).min() > 1e-3
    if assume_clear:
        assert recall(boxes, (8, 16), sizes, RATIOS) == ((best >= 0.5).mean(), (best >= 0.7).mean())


def test_sizes_at_equal_ratios_and_by_clusters():
    sizes = np.array([10.0] * 50 + [40.0] * 50)
    assert spread(sizes, 3) == pytest.approx([10, 20, 40])
    assert clustered(sizes, 2) == pytest.approx([10, 40])
    assert clustered(np.array([10.0]), 3) == pytest.approx([10, 10, 10])  # one box is enough


def test_levels_share_the_sizes_and_none_is_below_its_stride():
    assert shared_out(np.array([3.0, 9.4, 20.6, 25.0]), (8, 16)) == ((8.0, 9.0), (21.0, 25.0))


def test_the_boxes_own_ratios_are_the_middles_of_three_shares():
    heights = np.array([10.0] * 3 + [20.0] * 3 + [40.0] * 3)
    boxes = np.column_stack([np.zeros(9), np.zeros(9), np.full(9, 20.0), heights])
    assert box_ratios(boxes) == (0.5, 1.0, 2.0)


def anchors(name: str, count: int, *found: float) -> Anchors:
    return Anchors(((8.0,) * count,), RATIOS, (found[0], found[1]), name)


def test_the_fewest_anchors_win_that_come_close_to_the_best():
    defaults, few, many = anchors("d", 2, 0.9, 0.3), anchors("few", 1, 0.98, 0.69), anchors("many", 3, 1.0, 0.7)
    assert fewest([defaults, many, few]) is few  # 1.67 >= 1.70 - .04
    assert fewest([defaults, many, anchors("worse", 1, 0.97, 0.68)]) is many  # 1.65


def test_the_defaults_stay_where_equally_many_are_hardly_better():
    defaults = anchors("d", 2, 0.96, 0.70)
    assert fewest([defaults, anchors("other", 2, 0.98, 0.71)]) is defaults  # 1.66 >= 1.69 - .04
    better = anchors("other", 2, 0.98, 0.75)
    assert fewest([defaults, better]) is better


def test_boxes_of_one_size_get_anchors_of_that_size():
    rng = np.random.default_rng(0)
    corner = rng.uniform(40, 160, (200, 2))
    found, defaults = choose(np.hstack([corner, corner + rng.uniform(44, 46, (200, 2))]), (8, 16, 32))
    assert defaults.recall[1] < 0.1  # 45 lies between 32 and 64: (32 / 45)^2 = .51
    assert found.recall[0] == 1.0 and found.recall[1] > 0.9 and any(44 <= size <= 46 for size in found.sizes[0])
