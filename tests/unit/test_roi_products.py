"""RoIAlign as matrix products."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from raydet.vision import roi_products
from raydet.vision.roi_pooling import pool_rois
from raydet.vision.roi_products import Bins, is_fast, pool, pool_back


def test_by_hand():
    # A map whose cell (y, x) holds 10 y + x, one RoI from (1, 0) to (3, 2), two bins of one sample each, half pixels.
    # In cells that is from (.5, -.5) to (2.5, 1.5); samples lie in the middle of their bins: x = 1 and 2, y = 0 and 1.
    feature = torch.tensor([[[[10.0 * y + x for x in range(4)] for y in range(3)]]])
    rows = torch.tensor([[0.0, 1, 0, 3, 2]])
    assert pool(feature, rows, 1.0, Bins(2, 1, True)).tolist() == [[[[1, 2], [11, 12]]]]
    # Each of the four values is one cell, so that its gradient goes there.
    grad = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    back = pool_back(grad, feature.shape, rows, 1.0, Bins(2, 1, True))
    assert back.tolist() == [[[[0, 1, 2, 0], [0, 3, 4, 0], [0, 0, 0, 0]]]]


def test_samples_between_cells_are_shared_out_and_those_outside_count_as_zero():
    # One bin of one sample at the middle of the RoI, cells at whole numbers. In a row of 8, 4, 0 at x = .25:
    # .75 x 8 + .25 x 4 = 7; at -.5 the border's 8; at -1.5 nothing; beyond the last cell up to one cell its own.
    feature = torch.tensor([[[[8.0, 4.0, 0.0]]]])
    middles = [0.25, -0.5, -1.5, 1.0, 2.9, 3.5]
    rows = torch.tensor([[0, x - 0.5, -0.5, x + 0.5, 0.5] for x in middles])
    found = pool(feature, rows, 1.0, Bins(1, 1, False))
    assert found.flatten().tolist() == [7, 8, 0, 4, 0, 0]


boxes = st.tuples(*[st.floats(-40, 200, width=32)] * 2, *[st.floats(-5, 150, width=32)] * 2)


@given(
    st.lists(st.tuples(st.integers(0, 1), boxes), max_size=6), st.sampled_from([0, 1, 2, 3]), st.booleans(),
    st.sampled_from([1, 2, 7]), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.sampled_from([1.0, 0.25, 1 / 16]),
)  # fmt: skip
@settings(deadline=None, max_examples=150)
def test_values_and_gradients_are_torchvisions(drawn, ratio: int, aligned: bool, side: int, size, scale: float):
    rng = torch.Generator().manual_seed(0)
    feature = torch.randn(2, 3, *size, generator=rng, dtype=torch.float64).requires_grad_()
    rows = torch.tensor([[n, x, y, x + w, y + h] for n, (x, y, w, h) in drawn], dtype=torch.float64).reshape(-1, 5)
    theirs = roi_align(feature, rows, side, scale, ratio, aligned)
    ours = pool(feature.detach(), rows, scale, Bins(side, ratio, aligned))
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-9)
    grad = torch.randn(theirs.shape, generator=rng, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(theirs, feature, grad)
    back = pool_back(grad, feature.shape, rows, scale, Bins(side, ratio, aligned))
    torch.testing.assert_close(back, wanted, rtol=1e-9, atol=1e-9)


def test_more_rois_of_an_image_than_are_pooled_at_a_time(monkeypatch: pytest.MonkeyPatch):
    rng = torch.Generator().manual_seed(0)
    feature, corners = torch.randn(2, 3, 8, 8, generator=rng), 6 * torch.rand(20, 2, generator=rng)
    rows = torch.cat([torch.arange(20.0)[:, None] % 2, corners, corners + 3], dim=1)
    grad = torch.randn(20, 3, 2, 2, generator=rng)
    whole = pool(feature, rows, 1.0, Bins(2, 2, True)), pool_back(grad, feature.shape, rows, 1.0, Bins(2, 2, True))
    monkeypatch.setattr(roi_products, "AT_A_TIME", 3)
    torch.testing.assert_close(pool(feature, rows, 1.0, Bins(2, 2, True)), whole[0])
    torch.testing.assert_close(pool_back(grad, feature.shape, rows, 1.0, Bins(2, 2, True)), whole[1])


@pytest.mark.parametrize("trained", [False, True])
def test_large_maps_are_torchvisions_to_the_bit_small_ones_up_to_rounding(trained: bool):
    rng = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 2, side, side, generator=rng) for side in (60, 30)]
    assert [is_fast(each, trained=trained) for each in maps] == [False, True]
    rois = torch.tensor([[8.0, 8, 40, 44], [20, 30, 200, 220]])  # the second is large: from the second level
    inputs = [each.clone().requires_grad_(trained) for each in maps]
    found = pool_rois(inputs, [rois], strides=(4, 8), side=7, sampling_ratio=2, aligned=True)
    rows = torch.cat([torch.zeros(2, 1), rois], dim=1)
    assert torch.equal(found[:1], roi_align(maps[0], rows[:1], 7, 1 / 4, 2, True))
    torch.testing.assert_close(found[1:].detach(), roi_align(maps[1], rows[1:], 7, 1 / 8, 2, True))
    if trained:
        theirs = [each.clone().requires_grad_() for each in maps]
        wanted = [roi_align(theirs[i], rows[i : i + 1], 7, 1 / (4, 8)[i], 2, True).square().sum() for i in (0, 1)]
        torch.autograd.backward(wanted)
        found.square().sum().backward()
        for ours, other in zip(inputs, theirs, strict=True):
            torch.testing.assert_close(ours.grad, other.grad)
