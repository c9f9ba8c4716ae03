"""Which boxes are trained on what, and how boxes are encoded: torchvision's results from shapes that do not depend on
the data."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection import _utils as torchvision_utils
from torchvision.ops import box_iou

from raydet.vision.box_code import BoxCoder
from raydet.vision.matching import BACKGROUND, IGNORED, Matcher, sample


def boxes_of(seed: int, number: int, *, grid: int = 8) -> torch.Tensor:
    """Boxes with whole corners, so that equal IoUs are frequent."""
    rng = torch.Generator().manual_seed(seed)
    low = torch.randint(0, grid, (number, 2), generator=rng)
    return torch.cat([low, low + torch.randint(1, grid, (number, 2), generator=rng)], dim=1).float()


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 40), st.booleans())
def test_matching_is_torchvisions_ties_and_lonely_boxes_included(seed: int, true: int, number: int, is_rpn: bool):
    iou = box_iou(boxes_of(seed, true), boxes_of(seed + 1, number))
    low, high = (0.3, 0.7) if is_rpn else (0.5, 0.5)
    theirs = torchvision_utils.Matcher(high, low, allow_low_quality_matches=is_rpn)
    assert Matcher(high, low, gives_each_its_best=is_rpn)(iou).tolist() == theirs(iou).tolist()


@given(st.integers(0, 10**6), st.integers(1, 5))
def test_a_box_code_is_torchvisions_to_the_bit(seed: int, number: int):
    known, wanted = boxes_of(seed, number), boxes_of(seed + 1, number) + 0.3
    weights = (10.0, 10.0, 5.0, 5.0)
    ours, theirs = BoxCoder(weights), torchvision_utils.BoxCoder(weights)
    assert torch.equal(ours.encode(wanted, known), theirs.encode_single(wanted, known))
    deltas = 9 * torch.randn(number, 12, generator=rng(seed))  # three places each, some of them beyond the limit
    assert torch.equal(ours.decode(deltas, known), theirs.decode_single(deltas, known))


def test_boxes_of_several_images_are_decoded_as_those_of_each():
    known, deltas = boxes_of(0, 6).reshape(2, 3, 4), torch.randn(2, 3, 4, generator=rng(1))
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    together = coder.decode(deltas, known)
    assert torch.equal(together, torch.stack([coder.decode(deltas[i], known[i]) for i in range(2)]))


def test_what_an_image_draws_does_not_depend_on_its_neighbours():
    small = torch.tensor([0, BACKGROUND, BACKGROUND, IGNORED, 1, BACKGROUND])
    large = torch.tensor([BACKGROUND, 0] * 30)
    (alone,) = sample([small], 4, 0.25, [rng(1)])
    beside = sample([large, small], 4, 0.25, [rng(2), rng(1)])[1]
    assert [rows.tolist() for rows in alone] == [rows.tolist() for rows in beside]


def test_every_background_box_is_drawn_equally_often():
    # 3 of 6 places, the ignored one never: each of 5 background boxes with probability 3/5; of 2,000 draws 1,200 with
    # a standard deviation of sqrt(2000 * .6 * .4) = 22; five of these are 110
    matched = torch.tensor([BACKGROUND, BACKGROUND, IGNORED, BACKGROUND, BACKGROUND, BACKGROUND])
    drawn = [sample([matched], 3, 0.5, [rng(seed)])[0][1] for seed in range(2000)]
    counts = torch.bincount(torch.cat(drawn), minlength=6)
    assert int(counts[2]) == 0
    assert all(abs(int(count) - 1200) < 110 for count in counts[[0, 1, 3, 4, 5]])


def test_an_image_with_fewer_boxes_than_are_wanted_gives_all_it_has():
    foreground, background = sample([torch.tensor([IGNORED, 0, BACKGROUND])], 8, 0.5, [rng(0)])[0]
    assert (foreground.tolist(), background.tolist()) == ([1], [2])


def test_an_image_without_any_box_gives_none():
    empty, some = sample([torch.zeros(0, dtype=torch.int64), torch.tensor([0, BACKGROUND])], 4, 0.5, [rng(0), rng(1)])
    assert [len(rows) for rows in (*empty, *some)] == [0, 0, 1, 1]
