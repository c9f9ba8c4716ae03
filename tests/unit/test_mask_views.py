"""Masks in views and boxes: the matrix of a view carries them as it carries boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from raydet.records import Masks, Target
from raydet.vision.geometry import View
from raydet.vision.masks import decoded, encoded, masks_into_view, packed, pasted, targets_in, unpacked, warped
from tests.helpers import scaled

HEIGHT, WIDTH = 12, 17


def noise(seed: int, count: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, HEIGHT, WIDTH, generator=rng) > 0.5


def rectangle(top: int, left: int, bottom: int, right: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    found = torch.zeros(1, height, width, dtype=torch.bool)
    found[:, top:bottom, left:right] = True
    return found


seeds = st.integers(0, 2**20)
IDENTITY = View.identity(HEIGHT, WIDTH)


@given(seeds, st.booleans(), st.booleans())
def test_flipping_twice_changes_nothing(seed: int, horizontal: bool, vertical: bool):
    masks = noise(seed)
    once = IDENTITY.flipped(horizontal=horizontal, vertical=vertical)
    assert torch.equal(warped(masks, once.flipped(horizontal=horizontal, vertical=vertical)), masks)
    expected = masks.flip([axis for axis, flips in ((1, vertical), (2, horizontal)) if flips])
    assert torch.equal(warped(masks, once), expected)


@given(seeds, st.integers(1, 4))
def test_enlarging_by_a_whole_number_repeats_each_pixel_and_shrinking_undoes_it(seed: int, times: int):
    masks = noise(seed)
    larger = IDENTITY.resized(HEIGHT * times, WIDTH * times)
    found = warped(masks, larger)
    assert torch.equal(found, masks.repeat_interleave(times, 1).repeat_interleave(times, 2))
    assert torch.equal(warped(masks, larger.resized(HEIGHT, WIDTH)), masks)


@given(seeds, st.sampled_from([90.0, 180.0, 270.0]))
def test_quarter_turns_are_exact(seed: int, degrees: float):
    square = noise(seed)[:, :, :HEIGHT]
    turns = {90.0: -1, 180.0: 2, 270.0: 1}[degrees]  # clockwise; torch turns against it
    assert torch.equal(warped(square, View.identity(HEIGHT, HEIGHT).rotated(degrees)), square.rot90(turns, (1, 2)))


@given(seeds, st.integers(-5, 5), st.integers(-5, 5))
def test_a_crop_shows_what_is_there_and_nothing_outside(seed: int, top: int, left: int):
    masks = noise(seed)
    padded = torch.nn.functional.pad(masks, (5, 5, 5, 5))[:, top + 5 : top + 5 + 7, left + 5 : left + 5 + 9]
    assert torch.equal(warped(masks, IDENTITY.cropped(top, left, 7, 9)), padded)


@given(
    st.floats(0.5, 2), st.floats(-30, 30), st.floats(-0.4, 0.4), st.booleans(), st.integers(20, 30), st.integers(20, 30)
)
def test_a_mask_stays_in_the_box_that_its_view_makes_of_its_box_and_keeps_its_area(
    scale: float, degrees: float, shear: float, flips: bool, top: int, left: int
):
    size = 80
    view = scaled(View.identity(size, size), scale, scale).rotated(degrees).sheared(x=shear).flipped(horizontal=flips)
    mask = warped(rectangle(top, left, top + 25, left + 20, size, size), view)[0]
    box = view.to_view(torch.tensor([[left, top, left + 20, top + 25]], dtype=torch.float32))[0]
    rows, columns = np.nonzero(mask.numpy())
    low, high = np.maximum(box[:2].numpy(), 0), np.minimum(box[2:].numpy(), size)
    # Pixel centres lie in the box.
    assert columns.min() + 0.5 >= low[0] - 1e-3 and columns.max() + 0.5 <= high[0] + 1e-3
    assert rows.min() + 0.5 >= low[1] - 1e-3 and rows.max() + 0.5 <= high[1] + 1e-3
    if box.min() >= 0 and box.max() <= size:  # shears and turns keep areas
        assert mask.sum() == pytest.approx(500 * scale**2, rel=0.12)


@given(seeds, st.integers(0, 5), st.integers(1, 9), st.integers(1, 9))
def test_packing_loses_nothing(seed: int, count: int, height: int, width: int):
    masks = torch.rand(count, height, width, generator=torch.Generator().manual_seed(seed)) > 0.5
    bits = packed(masks, torch.ones(count, dtype=torch.bool))
    assert bits.bits.shape == (count, -(-height * width // 8))
    assert torch.equal(unpacked(bits), masks)


@given(seeds)
def test_run_lengths_lose_nothing(seed: int):
    masks = noise(seed)
    assert torch.equal(decoded([encoded(mask) for mask in masks], HEIGHT, WIDTH), masks)


def test_a_mask_that_nobody_knows_is_told_from_an_empty_one():
    empty = encoded(torch.zeros(HEIGHT, WIDTH, dtype=torch.bool))
    found = masks_into_view([b"", empty], HEIGHT, WIDTH, IDENTITY)
    assert found.known.tolist() == [False, True]
    assert not unpacked(found).any()


def test_a_target_keeps_the_masks_of_the_rows_that_it_keeps():
    masks = packed(noise(0, 3), torch.tensor([True, False, True]))
    plain = Target.truth(torch.zeros(3, 4), torch.arange(3))
    target = Target(plain.boxes, plain.classes, plain.scores, plain.quality, masks=masks)
    kept = target.where(torch.tensor([False, True, True]))
    assert kept.masks is not None and kept.masks.known.tolist() == [False, True]
    assert torch.equal(unpacked(kept.masks)[1], noise(0, 3)[2])
    with pytest.raises(ValueError, match="different lengths"):
        Target(plain.boxes, plain.classes, plain.scores, plain.quality, masks=masks.where(torch.tensor([0])))
    assert isinstance(kept.masks, Masks)


def test_a_target_says_which_share_of_each_cell_the_object_covers():
    # Box (0, 0, 4, 4) in 2 x 2 cells of 2 x 2 pixels; the object has columns 0 and 1: the left cells, whole. Half a
    # pixel to the right of a cell's middle begins the next one: samples at .5, 1.5 | 2.5, 3.5 (aligned).
    mask = rectangle(0, 0, HEIGHT, 2)
    found = targets_in(mask, torch.tensor([0]), torch.tensor([[0.0, 0.0, 4.0, 4.0]]), 2, aligned=True)
    assert found.tolist() == [[[1.0, 0.0], [1.0, 0.0]]]
    # Box (1, 0, 5, 4): samples in columns 1 and 2, then 3 and 4: half and nothing.
    found = targets_in(mask, torch.tensor([0]), torch.tensor([[1.0, 0.0, 5.0, 4.0]]), 2, aligned=True)
    assert found.tolist() == [[[0.5, 0.0], [0.5, 0.0]]]


def test_a_pasted_mask_lies_in_its_box():
    # A box of 8 x 4 pixels with 4 x 4 cells of 2 x 1 pixels; the object has the left half.
    cells = torch.zeros(1, 4, 4)
    cells[:, :, :2] = 1.0
    (rle,) = pasted(cells, torch.tensor([[3.0, 2.0, 11.0, 6.0]]), HEIGHT, WIDTH)
    mask = decoded([rle], HEIGHT, WIDTH)
    assert torch.equal(mask, rectangle(2, 3, 6, 7))


def test_a_box_that_is_cut_off_or_has_no_inside_pastes_what_is_left():
    cells = torch.ones(3, 28, 28)
    boxes = torch.tensor([[-6.0, -6.0, 6.0, 6.0], [3.0, 3.0, 3.0, 9.0], [30.0, 2.0, 40.0, 9.0]])
    found = decoded(pasted(cells, boxes, HEIGHT, WIDTH), HEIGHT, WIDTH)
    assert torch.equal(found[:1], rectangle(0, 0, 6, 6))
    assert not found[1:].any()
