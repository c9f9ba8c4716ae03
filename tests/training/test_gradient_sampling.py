"""Gradient-based sampling as a method: what a step computes, and what it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydet.contract import DataSizes
from raydet.families.detection.gradient_balance import direct_weights, stationary_weights
from raydet.families.detection.methods.gradient_sampling import GradientSampling
from raydet.records import PseudoBoxes, TeacherRef
from raydet.registry import build_method
from raydet.vision.losses import focal_cross_entropy
from tests.helpers import tiny_config
from tests.training.balanced import built, sampled, state_of, sums_of, updated


@pytest.mark.parametrize("beta", [0.3, 0.5, 0.8, 1.0])  # the paper's
def test_the_class_loss_is_weighed_by_class_weights_over_their_running_mean(
    beta: float, monkeypatch: pytest.MonkeyPatch
):
    from tests.parity.test_gradient_sampling_ranks import CLASSES, batch_of

    method = built(gbt_enabled=False, labeled_weight_exponent=beta)
    torch.manual_seed(1)
    student = method.build_model(CLASSES).train()
    state = method.build_state(DataSizes(4, 4, CLASSES))
    state.matrix = -torch.eye(CLASSES + 1)  # all classes were met
    state.weight_logits = torch.linspace(-1, 1, CLASSES + 1)
    state.mean_weight = torch.tensor(0.8)
    batch, kept = batch_of(5, 0, 1), {}
    real = method.host.forward

    def watched(*args: Any) -> Any:
        kept["pass"] = real(*args)
        return kept["pass"]

    monkeypatch.setattr(method.host, "forward", watched)
    found = method.losses(student, batch, student, state)
    roi, omega = kept["pass"].roi, kept["pass"].weights
    w = (7 * state.weight_logits.softmax(0)).clamp(1 / 3, 5)
    w[0] = min(float(w[0]), 1.0)
    total = count = torch.zeros(2)
    for r in range(len(roi.labels)):  # a straight line over RoIs
        unlabeled = int(r >= sum(roi.counts[:4]))
        exponent = 1.0 if unlabeled else beta
        loss = focal_cross_entropy(roi.logits[r : r + 1], roi.labels[r : r + 1], 1.0)[0]
        part = torch.zeros(2)
        part[unlabeled] = loss * omega[r] * w[roi.labels[r]] ** exponent / 0.8
        total = total + part
        part = torch.zeros(2)
        part[unlabeled] = omega[r]  # the divisor has no class weights
        count = count + part
    for name, number in (("sup", 0), ("unsup", 1)):
        term = found.losses[f"{name}/roi_cls"]
        assert float(term.total.detach()) == pytest.approx(float(total[number].detach()), rel=1e-4)
        assert float(term.count) == pytest.approx(float(count[number]), rel=1e-5)


def test_the_gradients_of_a_step_are_those_of_the_loss_without_class_weights():
    from tests.parity.test_gradient_sampling_ranks import CLASSES, batch_of

    method = build_method(sampled(Path("unused"), method={"gbt_enabled": False}))
    assert isinstance(method, GradientSampling)
    torch.manual_seed(1)
    student = method.build_model(CLASSES).train()
    state, batch = method.build_state(DataSizes(4, 4, CLASSES)), batch_of(0, 0, 1)
    light = method.losses(student, batch, student, state).sums["gradients"]
    state.matrix, state.weight_logits = -torch.eye(CLASSES + 1), torch.linspace(-1, 1, CLASSES + 1)
    heavy = method.losses(student, batch_of(0, 0, 1), student, state).sums["gradients"]
    assert torch.equal(light, heavy)
    found = method.host.forward(student, batch, student, 0.19)
    logits = found.roi.logits.detach().requires_grad_()
    first = sum(found.roi.counts[:4])
    rows = focal_cross_entropy(logits, found.roi.labels, 1.0) * found.weights
    # 4 images of each kind with 16 RoIs: a mean over 64, unlabelled times 4, all times 100.
    (slope,) = torch.autograd.grad((rows[:first].sum() + 4 * rows[first:].sum()) / 64 * 100, logits)
    for label in range(CLASSES + 1):
        torch.testing.assert_close(light[label], slope[found.roi.labels == label].sum(0), rtol=1e-4, atol=1e-5)
    assert light.sum(dim=1).abs().max() < 1e-4  # every row sums to 0


def test_gradients_are_a_plain_mean_in_the_warm_up_and_an_average_that_forgets_after_it():
    method, state = built(gbr_warmup_steps=2, gbr_ema=0.9), state_of(1)
    one = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    updated(method, state, 0, sums_of(one))
    updated(method, state, 1, sums_of(3 * one))
    assert torch.allclose(state.matrix, 2 * one)
    updated(method, state, 2, sums_of(12 * one))
    assert torch.allclose(state.matrix, (0.9 * 2 + 0.1 * 12) * one)


def test_fact_8_the_mean_weight_follows_in_thousandths():
    method, state = built(gbr_ema=0.999), state_of(1)
    for step in range(3):
        updated(method, state, step, sums_of(torch.zeros(2, 2), weights=1.5))
    assert float(state.mean_weight) == pytest.approx(1.0014985, abs=1e-6)


def test_the_mean_weight_is_one_for_labelled_and_unlabelled_rois_whatever_their_numbers():
    method, state = built(gbr_ema=0.9), state_of(1)
    sums = sums_of(torch.zeros(2, 2))
    sums["weights"] = torch.tensor([[2.0, 100.0], [3.0, 50.0]])  # means of 1.5 and of .5
    updated(method, state, 0, sums)
    assert float(state.mean_weight) == pytest.approx(0.9 + 0.1 * 1.0)
    sums["weights"] = torch.tensor([[2.0, 0.0], [3.0, 0.0]])  # no unlabelled RoI
    updated(method, state, 1, sums)
    assert float(state.mean_weight) == pytest.approx(0.9 + 0.1 * 1.5)
    sums["weights"] = torch.zeros(2, 2)
    updated(method, state, 2, sums)
    assert float(state.mean_weight) == pytest.approx(0.9 + 0.1 * 1.5)


def test_the_mean_weights_of_an_older_run_become_one():
    _, state = built(), state_of(1)
    state.updates += 1
    saved = state.tensors()
    del saved["mean_weight"]
    fresh = state_of(1)
    fresh.load({**saved, "mean_weights": torch.tensor([0.8, 0.6])}, "here")
    assert float(fresh.mean_weight) == pytest.approx(0.7)


def test_a_steps_sums_are_of_its_rois_and_of_all_that_the_teacher_said():
    from tests.parity.test_gradient_sampling_ranks import CLASSES, batch_of

    method = built(gbt_enabled=False)
    torch.manual_seed(1)
    student = method.build_model(CLASSES).train()
    state, batch = method.build_state(DataSizes(4, 4, CLASSES)), batch_of(5, 0, 1)
    state.matrix, state.weight_logits = -torch.eye(CLASSES + 1), torch.linspace(-1, 1, CLASSES + 1)
    sums = method.losses(student, batch, student, state).sums
    assert all(
        not each.requires_grad and each.dtype == torch.float32 for name, each in sums.items() if name != "weights"
    )
    found = method.host.forward(student, batch_of(5, 0, 1), student, 0.19).roi
    first, w = sum(found.counts[:4]), method.class_weights(state)[found.labels]
    assert sums["weights"][0].tolist() == [first, len(found.labels) - first]
    used = [float((w[:first] ** 0.5).sum()), float(w[first:].sum())]  # beta is .5; m is a mean of what was used
    assert sums["weights"][1].tolist() == pytest.approx(used, rel=1e-5)
    scores, numbers = [0.0] * CLASSES, [0.0] * CLASSES
    for label in batch.labels:  # all of them, also those below every threshold
        for c, score in zip(label.classes.tolist(), label.scores.tolist(), strict=True):
            scores[c] += score
            numbers[c] += 1
    assert sums["scores"][0].tolist() == pytest.approx(scores, rel=1e-5)
    assert sums["scores"][1].tolist() == numbers and sum(numbers) == 24
    rois, logits = [0.0] * (CLASSES + 1), [0.0] * (CLASSES + 1)
    for row, label in zip(found.logits.tolist(), found.labels.tolist(), strict=True):
        rois[label] += 1
        logits[label] += row[label]
    assert sums["logits"][0].tolist() == rois
    assert sums["logits"][1].tolist() == pytest.approx(logits, rel=1e-4, abs=1e-5)


def test_the_mean_logit_of_a_class_starts_with_its_first_step_and_waits_where_it_is_not_met():
    method, state = built(gbr_ema=0.9), state_of(2)
    sums = sums_of(torch.zeros(3, 3))
    sums["logits"] = torch.tensor([[10.0, 1.0, 0.0], [20.0, 3.0, 0.0]])
    updated(method, state, 0, sums)
    assert state.own_logits.tolist() == pytest.approx([2.0, 3.0, 0.0])  # 20 / 10, 3 / 1, not met
    sums["logits"] = torch.tensor([[4.0, 0.0, 2.0], [24.0, 0.0, -5.0]])
    updated(method, state, 1, sums)
    assert state.own_logits.tolist() == pytest.approx([0.9 * 2 + 0.1 * 6, 3.0, -2.5])


def test_the_mean_weight_of_few_rois_is_a_mean_of_these():
    method, state = built(gbr_ema=0.9), state_of(1)
    sums = sums_of(torch.zeros(2, 2))
    sums["weights"] = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    updated(method, state, 0, sums)
    assert float(state.mean_weight) == pytest.approx(0.9 + 0.1 * 2)


def test_what_the_state_takes_is_what_is_announced():
    # 80 classes, 1,000 images: 81 * 81 of the matrix, four rows of 81 and two of 80, a mean, two listings; two
    # counters of steps and one of updates with eight bytes each
    expected = 4 * (81 * 81 + 4 * 81 + 2 * 80 + 1 + 2 * 1000) + 3 * 8
    assert built().state_bytes(DataSizes(9, 1000, 80)) == expected == 36208


@pytest.mark.parametrize(("host", "copies"), [("soft_teacher", 1), ("unbiased_teacher", 2)])
def test_gradients_are_a_mean_over_the_rois_of_all_views(host: str, copies: int):
    # Unbiased Teacher shows each labelled image twice; 4 images of each kind, 16 RoIs an image
    settings = {"name": "gradient_sampling", "host": host, "burn_in_steps": 2}
    config = tiny_config(Path("unused"), method=settings) if host == "unbiased_teacher" else sampled(Path("unused"))
    method = build_method(config)
    roi_batch = config.model.roi_batch
    assert method.rois == {"labeled": 4 * copies * roi_batch, "unlabeled": 4 * roi_batch}


def test_the_weights_in_use_are_not_the_ones_that_are_learned():
    method, state = built(gbr_solver="direct"), state_of(1)
    method.class_weights(state)[0] = 7.0
    assert state.solved.tolist() == [1, 1]


def test_nothing_is_learned_in_the_burn_in():
    method, state = built(burn_in_steps=4), state_of(1)
    updated(method, state, 3, sums_of(-torch.eye(2)))
    assert int(state.updates) == 0 and not state.matrix.any()
    updated(method, state, 4, sums_of(-torch.eye(2)))
    assert int(state.updates) == 1 and bool(state.matrix.any())


def test_nothing_is_weighed_before_the_warm_up_is_over_and_the_logits_do_not_move():
    method, state = built(gbr_warmup_steps=5, gbt_warmup_steps=3), state_of()
    state.matrix, state.weight_logits = -torch.eye(4), torch.tensor([0.0, 1.0, -1.0, 0.0])
    state.class_scores = torch.tensor([0.8, 0.6, 0.2])
    assert method.weights_at(state, 4).tolist() == [1, 1, 1, 1]
    assert method.weights_at(state, 5).tolist() != [1, 1, 1, 1]
    theta = method.config.cls_pseudo_threshold
    assert method.thresholds_at(state, 2).tolist() == pytest.approx([theta] * 3)
    # theta .19, floor .17: .19 / 2.1 = .09; .19 * .6 / .53 = .21; .19 * .2 / .53 = .07
    assert method.thresholds_at(state, 3).tolist() == pytest.approx([0.17, 0.19, 0.17])
    before = state.weight_logits.clone()
    updated(method, state, 4, sums_of(-torch.eye(4)))
    assert torch.equal(state.weight_logits, before)


def test_boxes_are_selected_by_the_thresholds_of_the_step():
    method, state = built(gbt_warmup_steps=3), state_of()
    state.matrix, state.weight_logits = -torch.eye(4), torch.tensor([0.0, 1.0, -1.0, 0.0])
    state.class_scores = torch.tensor([0.8, 0.6, 0.2])  # thresholds .17, .19, .17 after the warm-up, see above
    scores, classes = torch.tensor([0.18, 0.18, 0.2, 0.16]), torch.tensor([0, 1, 1, 2])
    said = PseudoBoxes("a", TeacherRef(0, ""), torch.zeros(4, 4), classes, scores, torch.ones(4), 0.175)
    before, after = method.select_at(state, 2)(said), method.select_at(state, 3)(said)
    assert before.kept.scores.tolist() == pytest.approx([0.2]) and before.dropped == {"score": 3}
    assert after.kept.scores.tolist() == pytest.approx([0.18, 0.2]) and after.dropped == {"score": 2}
    assert before.is_complete and not after.is_complete  # rows reach down to .175, the lowest threshold is .17
    assert method.select_at(state, 3)(replace(said, complete_above=0.17)).is_complete
    common = built(gbt_warmup_steps=3, gbt_enabled=False).select_at(state, 3)(said)
    assert common.kept.scores.tolist() == pytest.approx([0.2]) and common.is_complete


def test_images_are_counted_from_the_end_of_burn_in_and_warm_up_on():
    found = built(burn_in_steps=4, crs_warmup_steps=3, crs_rebuild_steps=5).rebuilds()
    assert found is not None and (found.start, found.every) == (7, 5)


def test_the_logits_are_moved_by_sgd_with_momentum_and_by_nothing_else():
    # C = [[-1, 1], [.25, -.25]], w = 1: targets (.25, 4), of which clamps leave 1/3 (background) and 4;
    # background takes what is left: 2 - 4 < 1/3. Slope 2 / 2 * (0 - ln target) * (1 + 4).
    method, state = built(gbr_warmup_steps=0, weight_logits_lr=0.1, gbr_ema=0.5), state_of(1)
    c = torch.tensor([[-1.0, 1.0], [0.25, -0.25]])
    state.matrix = c
    updated(method, state, 0, sums_of(c))
    slope = -5 * np.log([1 / 3, 4.0])
    assert state.weight_logits.tolist() == pytest.approx((-0.1 * slope).tolist(), rel=1e-4)
    first = state.weight_logits.clone()
    updated(method, state, 1, sums_of(c))
    # a = (-.5493, .6931): w = 2 softmax(a) = (.448, 1.552), target .448 / .25 = 1.793 of class 1, slope 5 * (.6931 - ln
    # 1.793) = .546, velocity .9 * -6.931 + .546 = -5.69
    assert float((state.weight_logits - first)[1]) == pytest.approx(0.569, abs=1e-3)


@pytest.mark.parametrize("solver", ["direct", "stationary"])
def test_the_other_solvers_reach_the_exact_weights_at_once_and_solve_from_time_to_time(solver: str):
    # Fact 4 with the third class as background (w .782609): (18, 21, 30) / 23
    method = built(gbr_solver=solver, gbr_warmup_steps=0, gbr_solve_every_steps=3, gbr_ema=0.0)
    state = state_of(2)
    c = torch.tensor([[-0.40, 0.25, 0.15], [0.20, -0.30, 0.10], [0.10, 0.06, -0.16]])
    updated(method, state, 0, sums_of(c))
    assert method.weights_at(state, 1).tolist() == pytest.approx([18 / 23, 21 / 23, 30 / 23], abs=1e-5)
    old = state.solved.clone()
    updated(method, state, 1, sums_of(c.flip(0, 1)))
    assert torch.equal(state.solved, old)
    updated(method, state, 3, sums_of(c.flip(0, 1)))
    assert not torch.equal(state.solved, old)


@pytest.mark.parametrize(("solver", "solve"), [("direct", direct_weights), ("stationary", stationary_weights)])
def test_each_solver_is_its_own_where_no_weights_are_exact(solver: str, solve: Any):
    method, state = built(gbr_solver=solver, gbr_warmup_steps=0, gbr_solve_every_steps=1, gbr_ema=0.0), state_of(2)
    c = torch.tensor([[-0.50, 0.25, 0.15], [0.20, -0.30, 0.15], [0.10, 0.06, -0.30]])
    updated(method, state, 0, sums_of(c))
    assert torch.equal(state.solved, solve(c))
    assert not torch.allclose(direct_weights(c), stationary_weights(c), atol=1e-3)


def test_a_class_without_any_label_keeps_the_weight_one():
    for solver in ("jacobi", "direct", "stationary"):
        method = built(gbr_solver=solver, gbr_warmup_steps=0, gbr_solve_every_steps=1, weight_logits_lr=0.5)
        state = state_of(2)
        c = torch.tensor([[-0.40, 0.25, 0.15], [0.20, -0.30, 0.10], [0.0, 0.0, 0.0]])
        for step in range(30):
            updated(method, state, step, sums_of(c))
        weights = method.weights_at(state, 30)
        assert float(weights[2]) == 1, solver
        assert bool(torch.isfinite(weights).all()) and float(weights.max()) < 3, solver
