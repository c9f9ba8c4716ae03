"""Gradient-based sampling as a method: what a step computes, what it learns, what a resume has to give back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydet.contract import DataSizes, sizes_of
from raydet.errors import CheckpointError, ConfigError, UserError
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import BOXES
from raydet.families.detection.gradient_balance import direct_weights, stationary_weights
from raydet.families.detection.gradient_state import GradientState
from raydet.families.detection.hosts import UnbiasedHost
from raydet.families.detection.methods import gradient_sampling
from raydet.families.detection.methods.gradient_sampling import GradientSampling
from raydet.group import Group
from raydet.records import PseudoBoxes, TeacherRef
from raydet.registry import build_method
from raydet.train.launch import launch
from raydet.vision.losses import cross_entropy, focal_cross_entropy
from raydet.window import Window
from tests.helpers import tiny_config, tiny_soft
from tests.integration.runs import assert_same_bits, losses, saved

EARLY: dict[str, object] = {
    "name": "gradient_sampling",
    "gbr_warmup_steps": 1,
    "gbt_warmup_steps": 1,
    "crs_warmup_steps": 0,
    "crs_rebuild_steps": 3,
    "crs_repeat_threshold_max": 400.0,
    "gbr_ema": 0.9,
    "weight_logits_lr": 0.05,
}


def sampled(run: Path, *, method: dict[str, object] | None = None, **changes: object) -> DetectionConfig:
    return tiny_soft(run, method={**EARLY, **(method or {})}, **changes)


def built(**method: object) -> GradientSampling:
    found = build_method(sampled(Path("unused"), method=dict(method)))
    assert isinstance(found, GradientSampling)
    return found


def state_of(classes: int = 3, unlabeled: int = 4) -> GradientState:
    return GradientState.fresh(DataSizes(5, unlabeled, classes))


# --- resuming --------------------------------------------------------------------------------------------------------


def run_of(folder: Path, **changes: object) -> DetectionConfig:
    """Twelve steps; images are listed anew at 3, 6, 9, each time from two steps later on."""
    settings = {
        "optim__steps": 12,
        "labels__lookahead": 2,
        "labels__publish_every": 2,
        "data__loader_threads": 2,
        "data__prefetch_steps": 4,
        "model__roi_fg_iou": 0.3,
    }
    return sampled(folder, **{**settings, **changes})


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(run_of(tmp_path_factory.mktemp("straight") / "run")).path


def test_listings_change_which_images_are_seen(straight: Path, tmp_path: Path):
    listed = saved(straight)["memory.repeats"]
    assert saved(straight)["memory.first_steps"].tolist() == [8, 11]
    assert float(listed.max()) > 1 and float(listed.min()) == 1
    plain = launch(run_of(tmp_path / "run", method={"unlabeled_sampling": "random"})).path
    mine, theirs = losses(straight), losses(plain)
    assert mine[:5] == theirs[:5]  # the first listing begins at step 5
    assert mine[5:] != theirs[5:]


@pytest.mark.parametrize("stop", [3, 4, 6])
def test_a_run_that_is_stopped_before_at_or_after_a_rebuild_goes_on_bit_for_bit(
    straight: Path, stop: int, tmp_path: Path
):
    launch(run_of(tmp_path / "run", run__stop_at=stop))
    launch(run_of(tmp_path / "run"), resume=True)
    assert_same_bits(straight, tmp_path / "run")
    assert losses(straight) == losses(tmp_path / "run")


@pytest.mark.parametrize("fails_at", [4, 7])
def test_a_worker_that_is_killed_loses_no_statistics(
    straight: Path, fails_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = GradientSampling.update

    def dying(self: Any, state: Any, batch: Any, *rest: Any) -> None:
        if batch.step == fails_at:
            raise OSError("killed")
        real(self, state, batch, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(gradient_sampling.GradientSampling, "update", dying)
        with pytest.raises(OSError, match="killed"):
            launch(run_of(tmp_path / "run", checkpoint__every=3))
    launch(run_of(tmp_path / "run", checkpoint__every=3), resume=True)
    assert_same_bits(straight, tmp_path / "run")


def test_how_far_ahead_images_are_prepared_changes_nothing(straight: Path, tmp_path: Path):
    launch(run_of(tmp_path / "run", data__loader_threads=0, data__prefetch_steps=1))
    assert_same_bits(straight, tmp_path / "run")


def test_with_all_switches_off_it_is_soft_teacher_to_the_bit(tmp_path: Path):
    off = {"gbr_enabled": False, "gbt_enabled": False, "unlabeled_sampling": "random", "labeled_sampling": "random"}
    mine = launch(sampled(tmp_path / "mine", method=off)).path
    theirs = launch(tiny_soft(tmp_path / "theirs")).path
    found, expected = saved(mine), saved(theirs)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert losses(mine) == losses(theirs)


# --- what a step computes --------------------------------------------------------------------------------------------


def test_the_class_loss_is_weighed_by_class_weights_over_their_running_mean(monkeypatch: pytest.MonkeyPatch):
    from tests.parity.test_gradient_sampling_ranks import CLASSES, batch_of

    method = build_method(sampled(Path("unused"), method={"gbt_enabled": False}))
    assert isinstance(method, GradientSampling)
    torch.manual_seed(1)
    student = method.build_model(CLASSES).train()
    state = method.build_state(DataSizes(4, 4, CLASSES))
    state.matrix = -torch.eye(CLASSES + 1)  # all classes were met
    state.weight_logits = torch.linspace(-1, 1, CLASSES + 1)
    state.mean_weights = torch.tensor([0.8, 0.6])
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
        exponent, mean = (1.0, 0.6) if unlabeled else (0.5, 0.8)
        loss = focal_cross_entropy(roi.logits[r : r + 1], roi.labels[r : r + 1], 1.0)[0]
        part = torch.zeros(2)
        part[unlabeled] = loss * omega[r] * w[roi.labels[r]] ** exponent / mean
        total = total + part
        part = torch.zeros(2)
        part[unlabeled] = omega[r]  # the divisor has no class weights
        count = count + part
    for name, number in (("sup", 0), ("unsup", 1)):
        term = found.losses[f"{name}/roi_cls"]
        assert float(term.total.detach()) == pytest.approx(float(total[number]), rel=1e-4)
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


def sums_of(matrix: torch.Tensor, weights: float = 1.0) -> dict[str, torch.Tensor]:
    n = len(matrix)
    return {
        "gradients": matrix,
        "weights": torch.tensor([[10.0, 10.0], [10.0 * weights, 10.0 * weights]]),
        "scores": torch.zeros(2, n - 1),
        "logits": torch.zeros(2, n),
    }


def updated(method: GradientSampling, state: GradientState, step: int, sums: dict[str, torch.Tensor]) -> None:
    batch = type("Batch", (), {"step": step})()
    method.update(state, batch, {}, sums, Group())


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
    assert state.mean_weights.tolist() == pytest.approx([1.0014985] * 2, abs=1e-6)


def test_a_step_without_an_unlabelled_roi_leaves_their_mean_weight():
    method, state = built(gbr_ema=0.9), state_of(1)
    sums = sums_of(torch.zeros(2, 2), weights=1.5)
    sums["weights"][:, 1] = 0
    updated(method, state, 0, sums)
    assert state.mean_weights.tolist() == pytest.approx([0.9 + 0.1 * 1.5, 1.0])


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
    assert state.mean_weights.tolist() == pytest.approx([0.9 + 0.1 * 2, 1.0])


def test_what_the_state_takes_is_what_is_announced():
    # 80 classes, 1,000 images: 81 * 81 of the matrix, four rows of 81 and two of 80, two means, two listings; two
    # counters of steps and one of updates with eight bytes each
    expected = 4 * (81 * 81 + 4 * 81 + 2 * 80 + 2 + 2 * 1000) + 3 * 8
    assert built().state_bytes(DataSizes(9, 1000, 80)) == expected == 36212


@pytest.mark.parametrize(("host", "copies"), [("soft_teacher", 1), ("unbiased_teacher", 2)])
def test_gradients_are_a_mean_over_the_rois_of_all_views(host: str, copies: int):
    # Unbiased Teacher shows each labelled image twice; 4 images of each kind, 16 RoIs an image
    settings = {"name": "gradient_sampling", "host": host, "burn_in_steps": 2}
    config = tiny_config(Path("unused"), method=settings) if host == "unbiased_teacher" else sampled(Path("unused"))
    method = build_method(config)
    roi_batch = config.model.roi_batch
    assert method.rois == {"labeled": 4 * copies * roi_batch, "unlabeled": 4 * roi_batch}


def test_the_whole_matrix_is_kept_for_the_report_where_it_is_small():
    assert built().class_statistics(state_of(399), 9)["matrix"].shape == (400, 400)
    assert "matrix" not in built().class_statistics(state_of(400), 9)


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


# --- listing images --------------------------------------------------------------------------------------------------


def said(row: int, classes: list[int], scores: list[float]) -> tuple[int, PseudoBoxes]:
    n = len(classes)
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]]).repeat(n, 1)
    numbers = torch.tensor(classes, dtype=torch.int64)
    label = PseudoBoxes(f"u{row}", TeacherRef(0, ""), boxes, numbers, torch.tensor(scores), torch.ones(n), 0.05)
    return row, label


class Labelled:
    """A labelled set of 96 images: class 0 in all of them, class 1 in one, class 2 in none."""

    def __len__(self) -> int:
        return 96

    def classes_at(self, row: int) -> np.ndarray:
        return np.array([0, 1] if row == 0 else [0])


def sizes(unlabeled: int = 5) -> DataSizes:
    sets: Any = type("Sets", (), {"labeled": Labelled()})()
    return DataSizes(96, unlabeled, 3, sets)


LABELS = [
    said(0, [0], [0.95]),
    said(1, [0, 1], [0.8, 0.9]),  # class 1 by .3 above the threshold
    said(2, [1], [0.6]),  # just at the threshold: counted, margin 0
    said(3, [1], [0.59]),  # below: as if there were nothing
]


def listed(**method: object) -> list[float]:
    settings = {"cls_pseudo_threshold": 0.6, "rpn_pseudo_threshold": 0.6, "pseudo_score_floor": 0.5}
    chosen = built(gbt_enabled=False, **settings, **method)
    state = state_of(unlabeled=5)
    chosen.rebuild(state, sizes(), 6, iter(LABELS), Group())
    (listing,) = chosen.listings(state, DataSizes(96, 5, 3))
    assert listing.set_name == "unlabeled" and listing.first_step == 6
    return listing.factors.tolist()


def test_images_are_listed_by_their_surest_rare_boxes():
    # N = 96 labelled + 3 with a box: f_1 = (1 + 2) / 99; lambda = 4 * 6 / 8 = 3: r_1 = sqrt(3 * 33) = 9.950;
    # f_0 = (96 + 2) / 99: r_0 = sqrt(3 * 99 / 98) = 1.741. Image 0: .35 * 1.741 < 1; image 1: .3 * 9.950 = 2.985
    chosen = listed(crs_repeat_threshold_max=4.0, repeat_rounding="stochastic")
    assert chosen == pytest.approx([1, 2.985, 1, 1, 1], abs=1e-3)
    assert listed(crs_repeat_threshold_max=4.0) == [1, 3, 1, 1, 1]


def test_rfs_lists_images_by_their_rarest_box_however_sure():
    # t = 1: r_1 = sqrt(33) = 5.745, r_0 = sqrt(99 / 98) = 1.005; ceil makes 2 of it
    found = listed(unlabeled_sampling="rfs", rfs_repeat_threshold=1.0, repeat_rounding="stochastic")
    assert found == pytest.approx([1.005, 5.745, 5.745, 1, 1], abs=1e-3)
    assert listed(unlabeled_sampling="rfs", rfs_repeat_threshold=1.0) == [2, 6, 6, 1, 1]


def test_labelled_images_are_listed_by_repeat_factor_sampling(tmp_path: Path):
    method = built(rfs_repeat_threshold=0.5)
    data = BOXES.prepare(sampled(tmp_path).data, tmp_path / "data")
    (listing,) = method.listings(state_of(unlabeled=14), sizes_of(data))
    assert listing.set_name == "labeled" and listing.first_step == 0
    counts = np.zeros(6)
    for row in range(10):
        counts[data.labeled.classes_at(row)] += 1
    for row in range(10):
        rarest = min(counts[c] for c in data.labeled.classes_at(row)) / 10 if len(data.labeled.classes_at(row)) else 1
        assert listing.factors[row] == np.ceil(max(1.0, np.sqrt(0.5 / rarest)))
    assert built(labeled_sampling="random").listings(state_of(), sizes_of(data)) == []


# --- saving ----------------------------------------------------------------------------------------------------------


def test_the_state_is_what_was_saved(tmp_path: Path):
    state = state_of()
    assert state.tensors() == {}  # nothing was learned: a run may be forked from this
    method = built(gbr_warmup_steps=0)
    updated(method, state, 0, sums_of(torch.rand(4, 4) - torch.eye(4) * 3))
    state.list_anew(7, np.array([1.0, 2.0, 3.0, 1.0]))
    copy = state_of()
    copy.load(state.tensors(), "there")
    for name, value in state.tensors().items():
        assert torch.equal(copy.tensors()[name], value), name
    assert [listing.first_step for listing in copy.listings()] == [7]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.pop("matrix"), "class statistics lack 'matrix'"),
        (lambda t: t.update(repeats=torch.ones(2, 9)), r"repeats of its class statistics is torch.float32 \[2, 9\]"),
        (lambda t: t["matrix"].fill_(float("nan")), "matrix of its class statistics holds NaN"),
        (lambda t: t.update(updates=torch.tensor(1.0)), "updates of its class statistics is torch.float32"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(spoil: Any, said: str):
    state = state_of()
    updated(built(), state, 0, sums_of(-torch.eye(4)))
    tensors = {name: value.clone() for name, value in state.tensors().items()}
    spoil(tensors)
    with pytest.raises(CheckpointError, match=f"^there: .*{said}"):
        state_of().load(tensors, "there")


# --- settings --------------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_papers():
    config = tiny_soft(Path("unused"), method={"name": "gradient_sampling"}).method
    assert (config.labeled_weight_exponent, config.crs_repeat_threshold_max) == (0.5, 0.5)
    assert (config.gbr_warmup_steps, config.gbt_warmup_steps, config.crs_warmup_steps) == (4000, 4000, 4000)
    assert (config.gbr_solver, config.gbr_ema, config.cls_focal_exponent) == ("jacobi", 0.999, 1.0)
    assert (config.labeled_sampling, config.unlabeled_sampling, config.rfs_repeat_threshold) == ("rfs", "crs", 0.1)


def test_what_is_left_out_follows_the_host():
    ut = {"name": "gradient_sampling", "host": "unbiased_teacher"}
    config = tiny_config(Path("unused"), method=ut, optim__steps=3000).method
    assert (config.burn_in_steps, config.ema_keep_rate) == (2000, 0.9996)
    assert (config.cls_pseudo_threshold, config.cls_focal_exponent) == (0.7, 1.5)
    method = build_method(tiny_config(Path("unused"), method=ut, optim__steps=3000))
    assert isinstance(method.host, UnbiasedHost) and method.recipe.roles == ("labeled-strong", "labeled-weak")
    given = tiny_config(Path("unused"), method={**ut, "burn_in_steps": 2}).method
    assert given.burn_in_steps == 2
    plain = tiny_soft(Path("unused"), method={"name": "gradient_sampling", "gbr_enabled": False}).method
    assert plain.cls_focal_exponent == 0


def test_boxes_between_floor_and_theta_are_no_alarm_where_thresholds_differ():
    window = Window(steps=1)
    window.increase({"images": 4, "candidates": 10})
    window.raise_to("best_score", 0.7)
    settings: dict[str, object] = {"pseudo_score_floor": 0.5, "cls_pseudo_threshold": 0.9, "rpn_pseudo_threshold": 0.9}
    assert built(**settings).explain_barren(window) is None
    alarm = built(**settings, gbt_enabled=False).explain_barren(window)
    assert alarm is not None and "method.cls_pseudo_threshold is 0.9" in alarm.message
    low = Window(steps=1)
    low.increase({"images": 4, "candidates": 10})
    low.raise_to("best_score", 0.3)
    assert built(**settings).explain_barren(low) is not None


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ({"crs_rebuild_steps": 2}, {"labels__lookahead": 2}, "crs_rebuild_steps=2 must exceed labels.lookahead=2"),
        (
            {"crs_rebuild_steps": 50},
            {"labels__keep_versions": 100, "checkpoint__every": 60},
            "labels.keep_versions=100 deletes labels that method.crs_rebuild_steps=50 counts.*at least 111",
        ),
        (
            {"class_weight_min": 2.0},
            {},
            "method.class_weight_min=2.*1, the weight of balanced classes, must lie between",
        ),
        ({"labeled_sampling": "crs"}, {}, "method.labeled_sampling=.crs.: Input should be"),
        (
            {"pseudo_score_floor": 0.5, "cls_pseudo_threshold": 0.4, "rpn_pseudo_threshold": 0.9},
            {},
            "method.cls_pseudo_threshold=0.4 is below method.pseudo_score_floor=0.5",
        ),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(method: dict[str, object], changes: dict[str, object], said: str):
    with pytest.raises(ConfigError, match=said):
        sampled(Path("unused"), method=method, **changes)


def test_soft_teachers_gates_are_not_for_unbiased_teacher():
    with pytest.raises(ConfigError, match="method.jitter_times: for method.host=soft_teacher alone"):
        tiny_config(
            Path("unused"),
            method={"name": "gradient_sampling", "host": "unbiased_teacher", "burn_in_steps": 2, "jitter_times": 5},
        )


def test_without_unlabelled_images_the_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="needs unlabelled images"):
        launch(sampled(tmp_path / "run", data__labeled_count=None))
    with pytest.raises(UserError, match="needs unlabelled images"):
        launch(sampled(tmp_path / "run", data__labeled_count=24))


def test_one_class_is_trained_too_and_balanced_against_background_alone(tmp_path: Path):
    names = ("circle", "square", "triangle", "ellipse", "hexagon", "star")
    shapes = {"num_images": 24, "height": 64, "width": 96, "max_objects": 3}
    one = {"path": "shapes", "class_map": dict.fromkeys(names, "thing"), "shapes": shapes}
    run = launch(sampled(tmp_path / "run", data__labeled=one, data__val=None, optim__steps=6)).path
    learned = saved(run)
    assert learned["memory.matrix"].shape == (2, 2) and learned["memory.class_scores"].shape == (1,)
    assert all(bool(torch.isfinite(value).all()) for value in learned.values())
    up, down = learned["memory.matrix"].diagonal(), learned["memory.matrix"].sum(dim=1)
    assert bool((up < 0).all()) and down.tolist() == pytest.approx([0, 0], abs=1e-2)


def test_statistics_of_other_images_are_refused(tmp_path: Path):
    launch(sampled(tmp_path / "run", optim__steps=4, run__stop_at=3))
    data = tmp_path / "run" / "data"
    other = launch(sampled(tmp_path / "other", optim__steps=1, data__labeled_count=12)).path / "data"
    for file in [*data.glob("*.arrow"), data / "sources.json"]:
        file.write_bytes((other / file.name).read_bytes())
    with pytest.raises(CheckpointError, match="what it has learned is about other images"):
        launch(sampled(tmp_path / "run", optim__steps=4), resume=True)


def test_cross_entropy_is_the_focal_loss_of_exponent_zero():
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(focal_cross_entropy(logits, labels, 0.0), cross_entropy(logits, labels))
