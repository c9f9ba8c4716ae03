"""Numbers worked out by hand for a step of gradient-based sampling as a method.

How the mean weight follows is in `tests/training/test_gradient_sampling.py`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raydet.families.detection.batch import StudentBatch
from raydet.families.detection.gradient_balance import Bounds, jacobi_loss, jacobi_targets, softmax_weights
from raydet.families.detection.methods.soft_teacher import SoftPass
from raydet.records import Target
from tests.parity.test_gradient_sampling_ranks import viewed
from tests.training.balanced import built, state_of, sums_of, updated


@pytest.mark.parametrize(
    ("label", "root", "weight"),
    [(0, 0.774597, 0.6), (1, 1.341641, 1.8), (2, 0.948683, 0.9)],  # w = (.6, 1.8, .9): sqrt on labelled images
)
def test_fact_8_labelled_images_weigh_by_the_root_of_the_class_weights_and_others_by_themselves(
    label: int, root: float, weight: float, monkeypatch: pytest.MonkeyPatch
):
    method, state = built(gbr_solver="direct", gbr_warmup_steps=0, gbt_enabled=False), state_of(2)
    state.solved = torch.tensor([0.6, 1.8, 0.9])
    # One RoI in an image of each kind, of which the student knows nothing: p = 1 / 3
    labels = torch.tensor([label, label])
    roi: Any = SimpleNamespace(logits=torch.zeros(2, 3), labels=labels, counts=[1, 1])
    monkeypatch.setattr(method.host, "forward", lambda *_: SoftPass(roi, torch.ones(2), {}))
    views = viewed("l", "labeled", 0), viewed("u", "unlabeled", 0)
    found = method.losses(None, StudentBatch(0, views, (Target.empty(), Target.empty()), 1), None, state)
    loss = 0.732408  # (1 - 1 / 3) * ln 3
    assert float(found.losses["sup/roi_cls"].total) == pytest.approx(root * loss, abs=2e-6)
    assert float(found.losses["unsup/roi_cls"].total) == pytest.approx(weight * loss, abs=2e-6)
    # What the running mean m is made of: numbers of RoIs, and the weights that were used
    assert found.sums["weights"][0].tolist() == [1, 1]
    assert found.sums["weights"][1].tolist() == pytest.approx([root, weight], abs=2e-6)


def test_the_weight_logits_move_down_the_slope_of_l_jacobi():
    # Fact 3's matrix, background first
    c = torch.tensor([[-3.0, 1, 2], [0.5, -1, 0.5], [0.2, 0.3, -0.5]])
    method, state = built(gbr_warmup_steps=0, weight_logits_lr=0.1, unsup_weight=1.5, gbr_ema=0.0), state_of(2)
    state.weight_logits = torch.tensor([-0.4, 0.3, 0.2])
    a = state.weight_logits.clone().requires_grad_()
    jacobi_loss(jacobi_targets(c, softmax_weights(a), Bounds()), a).backward()
    updated(method, state, 0, sums_of(c))
    assert a.grad is not None and float(a.grad.abs().min()) > 0.01
    # Once for labelled and 1.5 times for unlabelled images
    assert (a - state.weight_logits).tolist() == pytest.approx((0.1 * 2.5 * a.grad).tolist(), rel=1e-4)
