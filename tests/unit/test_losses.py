from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from raydet.vision import losses


def test_l1_and_smooth_l1_box_distance():
    # |d| = .05 four times. L1: 4 * .05 = .2. Smooth, beta 1/9: 4 * .05^2 * 9 / 2 = 4 * .01125 = .045.
    predicted, wanted = torch.full((1, 4), 0.05), torch.zeros(1, 4)
    assert losses.box_regression(predicted, wanted, "l1").tolist() == pytest.approx([0.2])
    assert losses.box_regression(predicted, wanted, "smooth_l1").tolist() == pytest.approx([0.045])
    # |d| = 1: smooth 4 * (1 - 1/18) = 3.777778
    assert losses.box_regression(predicted * 20, wanted, "smooth_l1").tolist() == pytest.approx([34 / 9])


def test_smooth_l1_of_the_quality_is_quadratic_below_one():
    # .5 * .4^2 = .08
    assert losses.smooth_l1(torch.tensor([0.9]), torch.tensor([0.5])).tolist() == pytest.approx([0.08])


def test_focal_with_exponent_zero_is_cross_entropy():
    logits, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])
    expected = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(losses.focal_cross_entropy(logits, labels, 0.0), expected)


def test_focal_with_a_soft_target_uses_the_exponential_of_the_cross_entropy():
    # q = .5, target .6: BCE = ln 2, p_t = .5, (1 - .5)^1.5 * ln 2 = .245065
    found = losses.binary_focal(torch.zeros(1), torch.tensor([0.6]), 1.5)
    assert found.tolist() == pytest.approx([0.245065], abs=1e-6)


@given(
    logit=st.floats(-100, 100, width=32),
    target=st.sampled_from([0.0, 1.0]),
    exponent=st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0]),
)
def test_focal_losses_and_their_gradients_are_finite_everywhere(logit: float, target: float, exponent: float):
    x = torch.tensor([logit], requires_grad=True)
    binary = losses.binary_focal(x, torch.tensor([target]), exponent)
    classes = losses.focal_cross_entropy(torch.stack([x, -x], dim=1), torch.tensor([int(target)]), exponent)
    (binary + classes).sum().backward()
    assert torch.isfinite(binary).all() and torch.isfinite(classes).all()
    assert torch.isfinite(x.grad).all()
    assert binary >= 0 and classes >= 0


def test_sums_per_image_include_images_without_rows():
    found = losses.sum_per_image(torch.tensor([1.0, 2.0, 4.0]), [2, 0, 1])
    assert found.tolist() == [3.0, 0.0, 4.0]


def test_the_sum_of_no_rows_is_on_the_graph():
    x = torch.ones(3, requires_grad=True)
    losses.sum_per_image(x[:0], [0, 0]).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0]


def test_losses_are_float32_under_half_precision_inputs():
    logits = torch.tensor([[2.0, 0.0]], dtype=torch.bfloat16)
    assert losses.cross_entropy(logits, torch.tensor([0])).dtype == torch.float32
    assert losses.binary_focal(logits[:, 0], torch.ones(1), 1.5).dtype == torch.float32
    assert losses.box_regression(logits, logits, "l1").dtype == torch.float32
    assert losses.box_regression(logits, logits.float(), "l1").dtype == torch.float32
    assert losses.smooth_l1(logits, logits).dtype == torch.float32
    # computed in float32, not only said in it: -log sigmoid(2) and |2.015625 - 0| + |0 - 1e-3|
    assert float(losses.binary_cross_entropy(logits, torch.ones(1, 2))[0, 0]) == pytest.approx(0.126928, abs=1e-6)
    near = torch.tensor([[2.015625, 0.0]], dtype=torch.bfloat16), torch.tensor([[0.0, 1e-3]])
    assert float(losses.box_regression(*near, "l1")[0]) == pytest.approx(2.016625, abs=1e-6)
