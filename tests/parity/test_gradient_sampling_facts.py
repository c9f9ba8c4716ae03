"""Numbers worked out by hand for gradient-based sampling, in float64.

The facts put background last; here class order plays no part (fact 7), so the index of background is given.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raydet.families.detection.gradient_balance import (
    AT_A_TIME,
    Bounds,
    direct_weights,
    gradient_matrix,
    jacobi_loss,
    jacobi_targets,
    met,
    softmax_weights,
    stationary_weights,
)
from raydet.vision.losses import focal_cross_entropy
from tests.parity.by_hand import F64, near

LAST = Bounds(background=2)


def matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=F64)


def exact_loss(logits: Tensor, labels: Tensor, exponent: float) -> Tensor:
    log_p = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    return (1 - log_p.exp()) ** exponent * -log_p


LOGITS = torch.tensor([[2, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 2], [0.5, 0, 1.5]], dtype=F64)
LABELS = torch.tensor([0, 0, 1, 2, 2])


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [
        (
            1.0,
            [[-0.079975, 0.039988, 0.039988], [0.031434, -0.062869, 0.031434], [0.039229, 0.027159, -0.066388]],
        ),
        (
            0.0,
            [[-0.127379, 0.063690, 0.063690], [0.042388, -0.084777, 0.042388], [0.067546, 0.049350, -0.116896]],
        ),
    ],
)
def test_fact_1_the_matrix_of_five_rois(exponent: float, expected: list[list[float]]):
    found = gradient_matrix(LOGITS, LABELS, exponent) / 5
    for row, wanted in zip(found.tolist(), expected, strict=True):
        assert row == near(wanted)
    assert found.sum(dim=1).tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    for label in range(3):  # the gradient of the mean loss of the RoIs of one class
        logits = LOGITS.clone().requires_grad_()
        (exact_loss(logits, LABELS, exponent) * (label == LABELS)).sum().div(5).backward()
        assert found[label].tolist() == near(logits.grad.sum(dim=0).tolist())


def test_fact_2_one_roi_at_several_exponents():
    logits, labels = torch.tensor([[1.2, -0.3, 0.4]], dtype=F64), torch.tensor([0])
    found = [gradient_matrix(logits, labels, exponent)[0].tolist() for exponent in (0, 1, 1.5, 2)]
    assert [row[0] for row in found] == near([-0.402078, -0.285309, -0.220114, -0.164430])
    assert [row[1] for row in found] == near([0.133414, 0.094669, 0.073037, 0.054560])


def test_the_gradients_are_those_of_the_loss_that_is_trained():
    logits = torch.randn(40, 5, requires_grad=True)
    labels, weights = torch.randint(5, (40,)), torch.rand(40)
    for exponent in (0.0, 0.5, 1.0, 1.5, 2.0):
        found = gradient_matrix(logits.detach(), labels, exponent, weights)
        (slope,) = torch.autograd.grad((focal_cross_entropy(logits, labels, exponent) * weights).sum(), logits)
        for label in range(5):
            torch.testing.assert_close(found[label], slope[labels == label].sum(dim=0), rtol=1e-4, atol=1e-6)


def test_rois_are_taken_some_at_a_time_and_none_is_lost_or_counted_twice():
    draw = torch.Generator().manual_seed(0)
    count = 2 * AT_A_TIME + 300
    logits = torch.randn(count, 6, dtype=F64, generator=draw).requires_grad_()
    labels, weights = torch.randint(5, (count,), generator=draw), torch.rand(count, dtype=F64, generator=draw)
    found = gradient_matrix(logits.detach(), labels, 1.5, weights)
    (slope,) = torch.autograd.grad((exact_loss(logits, labels, 1.5) * weights).sum(), logits)
    for label in range(6):  # nothing is of class 5: its row is empty
        torch.testing.assert_close(found[label], slope[labels == label].sum(dim=0), rtol=0, atol=1e-9)
    assert not found[5].any() and torch.equal(met(found), torch.tensor([True] * 5 + [False]))


THREE = [[-3.0, 1, 2], [0.5, -1, 0.5], [0.2, 0.3, -0.5]]


def test_fact_3_exact_weights_and_the_first_jacobi_step():
    c = matrix(THREE)
    exact = [21 / 79, 66 / 79, 150 / 79]  # .265823, .835443, 1.898734
    assert direct_weights(c).tolist() == near(exact)
    assert stationary_weights(c).tolist() == near(exact)
    # (.5 + .2) / 3, (1 + .3) / 1, (2 + .5) / .5
    first = jacobi_targets(c, torch.ones(3, dtype=F64), None)
    assert first.tolist() == pytest.approx([0.233333, 1.3, 5.0], abs=2e-5)  # the denominators have 1e-6 more
    a = torch.zeros(3, dtype=F64, requires_grad=True)
    loss = jacobi_loss(torch.tensor([0.7 / 3, 1.3, 5.0], dtype=F64), a)
    loss.backward()
    assert float(loss.detach()) == near(1.592329)
    assert a.grad.tolist() == near([0.970191, -0.174910, -1.072959])
    # With the code's own targets, of w = 1 at a = 0: no slope goes through them, and the 1e-6 moves the fifth digit.
    b = torch.zeros(3, dtype=F64, requires_grad=True)
    jacobi_loss(jacobi_targets(c, softmax_weights(b), None), b).backward()
    assert b.grad.tolist() == pytest.approx(a.grad.tolist(), abs=5e-6)


def test_fact_3_normalised_jacobi_reaches_the_exact_weights():
    c, w = matrix(THREE), torch.ones(3, dtype=F64)
    for _ in range(200):
        targets = jacobi_targets(c, w, None)
        w = 3 * targets / targets.sum()
    assert w.tolist() == pytest.approx([21 / 79, 66 / 79, 150 / 79], abs=1e-5)


def descended(c: Tensor, bounds: Bounds | None, steps: int = 4000, lr: float = 0.5) -> tuple[Tensor, Tensor]:
    """Train the weight logits by plain gradient descent; return them and the last targets."""
    a, targets = torch.zeros(len(c), dtype=F64), torch.ones(len(c), dtype=F64)
    for _ in range(steps):
        targets = jacobi_targets(c, softmax_weights(a), bounds)
        a = a - lr * 2 / len(a) * (a - targets.log())
    return a, targets


def test_a_class_that_was_not_met_changes_no_solution_of_the_others():
    c = torch.zeros(4, 4, dtype=F64)
    c[:3, :3] = matrix(THREE)
    for solve in (direct_weights, stationary_weights):
        assert solve(c).tolist() == near([21 / 79, 66 / 79, 150 / 79, 1.0])  # the three add up to 3, not to 4


def test_what_a_class_that_was_not_met_pushes_by_leaves_the_sum_of_the_others():
    # Its column is not zero: softmax gives every class something. Without it the two others push each other by .02
    # each, so that their weights are equal, and add up to two.
    c = matrix([[-0.10, 0.02, 0.08], [0.02, -0.30, 0.28], [0.0, 0.0, 0.0]])
    for solve in (direct_weights, stationary_weights):
        assert solve(c).tolist() == near([1.0, 1.0, 1.0])
    # .25 w_1 = .2 w_2: 2 * .2 / .45 = .888889 and 2 * .25 / .45 = 1.111111.
    c = matrix([[-0.40, 0.25, 0.15], [0.20, -0.30, 0.10], [0.0, 0.0, 0.0]])
    for solve in (direct_weights, stationary_weights):
        assert solve(c).tolist() == near([8 / 9, 10 / 9, 1.0])


def test_fact_3_the_softmax_reaches_the_exact_weights():
    a, _ = descended(matrix(THREE), None)
    assert softmax_weights(a).tolist() == pytest.approx([0.265823, 0.835443, 1.898734], abs=2e-5)
    assert a.tolist() == pytest.approx([-1.324925, -0.179793, 0.641187], abs=2e-5)  # at the end a = ln w


def test_fact_3_with_clamps_and_the_backgrounds_rule_the_fixed_point_is_another():
    a, targets = descended(matrix(THREE), LAST)
    assert softmax_weights(a).tolist() == pytest.approx([0.454995, 1.180019, 1.364986], abs=2e-5)
    assert targets.tolist() == pytest.approx([1 / 3, 0.864491, 1.0], abs=2e-5)


def test_fact_4_nothing_hits_a_clamp():
    c = matrix([[-0.30, 0.10, 0.20], [0.06, -0.16, 0.10], [0.25, 0.15, -0.40]])
    exact = [21 / 23, 30 / 23, 18 / 23]  # .913043, 1.304348, .782609
    assert direct_weights(c).tolist() == near(exact)
    assert stationary_weights(c).tolist() == near(exact)
    assert LAST.clamp(torch.tensor(exact)).tolist() == near(exact)


def test_fact_5_plain_jacobi_oscillates_and_the_softmax_damps_it():
    c = matrix([[-1.0, 1], [0.25, -0.25]])
    w = torch.ones(2, dtype=F64)
    there = jacobi_targets(c, w, None)
    back = jacobi_targets(c, there, None)
    assert there.tolist() == pytest.approx([0.25, 4.0], abs=2e-5)
    assert back.tolist() == pytest.approx([1.0, 1.0], abs=2e-5)
    assert softmax_weights(descended(c, None)[0]).tolist() == pytest.approx([0.4, 1.6], abs=2e-5)
    assert direct_weights(c).tolist() == near([0.4, 1.6])


def generator(seed: int, size: int = 5) -> Tensor:
    rng = np.random.default_rng(seed)
    off = rng.uniform(0.05, 1.0, (size, size))
    np.fill_diagonal(off, 0)
    return torch.tensor(off - np.diag(off.sum(axis=1)))


def test_fact_6_exact_generators_have_no_negative_weight_and_bad_estimates_do():
    for seed in range(200):
        c = generator(seed)
        assert float(direct_weights(c).amin()) > 0 and float(stationary_weights(c).amin()) > 0
    negative = 0
    for seed in range(200):
        c = generator(seed)
        noise = torch.tensor(np.random.default_rng(seed + 1000).uniform(0.7, 1.3, 5))
        spoilt = c + torch.diag(c.diagonal() * (noise - 1))
        system = spoilt.T.clone()
        system[-1] = 1  # one equation gives way to the sum
        solved = torch.linalg.solve(system, torch.tensor([0, 0, 0, 0, 5.0], dtype=F64))
        negative += bool((solved < 0).any())
        assert float(stationary_weights(spoilt).amin()) >= 0  # our rows are mended
    assert negative > 0


def test_fact_6_an_unseen_class_would_get_all_the_mass_and_is_left_out_instead():
    c = generator(3)
    c[0] = 0
    system = torch.cat([c.T, torch.ones(1, 5, dtype=F64)])
    naive = torch.linalg.lstsq(system, torch.tensor([[0.0]] * 5 + [[5.0]], dtype=F64)).solution[:, 0]
    assert naive.tolist() == pytest.approx([5, 0, 0, 0, 0], abs=1e-9)
    for solver in (direct_weights, stationary_weights):
        found = solver(c)
        assert float(found[0]) == 1 and float(found.amin()) > 0
    assert met(c).tolist() == [False, True, True, True, True]
    targets = jacobi_targets(c, torch.ones(5, dtype=F64), Bounds(background=4))
    assert float(targets[0]) == 1
    assert softmax_weights(torch.arange(5, dtype=F64), met(c))[0] == 1
    assert float(softmax_weights(torch.arange(5, dtype=F64), met(c)).sum()) == pytest.approx(5)


@pytest.mark.parametrize("seen", [[], [2]])
def test_one_class_or_none_is_balanced_by_itself(seen: list[int]):
    c = torch.zeros(3, 3, dtype=F64)
    for label in seen:
        c[label] = torch.tensor([0.1, 0.1, -0.2])
    for solver in (direct_weights, stationary_weights):
        assert solver(c).tolist() == [1, 1, 1]
    assert softmax_weights(torch.zeros(3, dtype=F64), met(c)).tolist() == [1, 1, 1]


@given(seed=st.integers(0, 10_000), factor=st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_fact_7_scale_and_order_of_classes_change_nothing(seed: int, factor: float):
    c, order = generator(seed), torch.tensor(np.random.default_rng(seed).permutation(5))
    for solver in (direct_weights, stationary_weights):
        found = solver(c)
        assert solver(c * factor).tolist() == pytest.approx(found.tolist(), rel=1e-8)
        assert solver(c[order][:, order]).tolist() == pytest.approx(found[order].tolist(), rel=1e-8)
    w = torch.rand(5, dtype=F64) + 0.5
    scaled = jacobi_targets(c * factor, w, None)
    assert scaled.tolist() == pytest.approx(jacobi_targets(c, w, None).tolist(), rel=2e-2)  # the epsilon


def test_the_transposed_matrix_is_a_silent_no_op():
    # Rows sum to 0: w = 1 solves the balance of C^T, so mixing the two up would go unnoticed.
    c = matrix(THREE)
    assert (c @ torch.ones(3, dtype=F64)).tolist() == pytest.approx([0, 0, 0])
    assert direct_weights(c).tolist() != near([1, 1, 1])
