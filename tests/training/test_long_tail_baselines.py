"""Logit adjustment, EQLv2 and classifier retraining on Soft Teacher."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raydet.contract import DataSizes, sizes_of
from raydet.errors import CheckpointError, ConfigError
from raydet.families.detection.data import BOXES
from raydet.families.detection.methods.classifier_retraining import CLASSIFIER
from raydet.families.detection.methods.eqlv2 import (
    EqlV2,
    GradientRatios,
    SigmoidDetector,
    class_weights,
    equalized,
)
from raydet.families.detection.methods.logit_adjustment import LogitAdjustment, log_priors
from raydet.families.detection.methods.soft_teacher import SoftPass
from raydet.registry import build_method
from raydet.settings import resolve
from raydet.train.checkpoint import open_checkpoint
from raydet.train.launch import launch
from raydet.vision.losses import focal_cross_entropy
from tests.helpers import tiny_config, tiny_soft
from tests.integration.runs import assert_same_bits
from tests.parity.test_gradient_sampling_ranks import CLASSES, batch_of

# --- logit adjustment ------------------------------------------------------------------------------------------------


def test_log_priors_of_three_classes():
    # shares .8, .15, .05 of 100 boxes; times 3: 2.4, .45, .15
    expected = [0.0, math.log(2.4), math.log(0.45), math.log(0.15)]
    assert log_priors(torch.tensor([80, 15, 5])).tolist() == pytest.approx(expected, rel=1e-5)
    assert log_priors(torch.tensor([7, 7, 7])).tolist() == [0, 0, 0, 0]
    # without a box: as if there were one: shares 3/4 and 1/4 of four
    assert log_priors(torch.tensor([3, 0])).tolist() == pytest.approx([0, math.log(1.5), math.log(0.5)], rel=1e-5)


def test_the_loss_sees_the_adjusted_logits_and_its_strength_can_be_nothing(tmp_path: Path):
    settings = {"name": "logit_adjustment", "labeled_sampling": "random"}
    data = BOXES.prepare(tiny_soft(tmp_path).data, tmp_path / "data")
    found = {}
    for strength in (0.0, 1.0):
        method = build_method(tiny_soft(tmp_path, method={**settings, "adjustment_strength": strength}))
        assert isinstance(method, LogitAdjustment)
        torch.manual_seed(1)
        student = method.build_model(CLASSES).train()
        state = method.build_state(sizes_of(data))
        assert torch.equal(state.logs, log_priors(torch.from_numpy(data.labeled.boxes_per_class())))
        found[strength] = method.losses(student, batch_of(0, 0, 1), student, state).losses
        plain = build_method(tiny_soft(tmp_path)).losses(student, batch_of(0, 0, 1), student, None).losses
        for name, term in plain.items():
            same = float(found[strength][name].total.detach()) == float(term.total.detach())
            assert same == (strength == 0 or not name.endswith("roi_cls")), (name, strength)


# --- EQLv2 -----------------------------------------------------------------------------------------------------------


def test_eqlv2_weights_of_four_ratios():
    config = build_method(tiny_soft(Path("unused"), method={"name": "eqlv2"})).config
    # q = sigmoid(12 (g - .8)): g = .8: .5; g = 0: sigmoid(-9.6) = 6.7724e-5; g = .9: sigmoid(1.2) = .768525; g = 100: 1
    positive, negative = class_weights(torch.tensor([0.8, 0.0, 0.9, 100.0]), config)
    assert negative.tolist() == pytest.approx([0.5, 6.7724e-5, 0.768525, 1.0], rel=1e-4)
    assert positive.tolist() == pytest.approx([3.0, 4.999729, 1.925900, 1.0], rel=1e-5)


def test_the_loss_of_one_roi_of_eqlv2():
    # Class 1 of two, logits (0, ln 3, 0): p = (.5, .75, .5). Own class: weight 2 * -ln .75; class 2: weight .1 *
    # -ln .5; background: weight 1 * -ln .5.
    logits, labels = torch.tensor([[0.0, math.log(3), 0.0]]), torch.tensor([1])
    rows, sums = equalized(logits, labels, torch.tensor([2.0, 2.0]), torch.tensor([0.1, 0.1]))
    assert float(rows[0]) == pytest.approx(2 * -math.log(0.75) + 0.1 * math.log(2) + math.log(2), rel=1e-5)
    assert sums[0].tolist() == pytest.approx([2 * 0.25, 0])  # |.75 - 1| * 2
    assert sums[1].tolist() == pytest.approx([0, 0.1 * 0.5])  # |.5 - 0| * .1
    rows, sums = equalized(logits, torch.tensor([0]), torch.ones(2), torch.ones(2))  # background
    assert float(rows[0]) == pytest.approx(-math.log(0.5) - math.log(0.25) - math.log(0.5), rel=1e-5)
    assert sums[0].tolist() == [0, 0] and sums[1].tolist() == pytest.approx([0.75, 0.5])


def test_eqlv2_has_no_focal_exponent_and_refuses_one_but_reads_saved_settings():
    with pytest.raises(ConfigError, match="method.cls_focal_exponent=2: method.name=eqlv2.*remove it"):
        tiny_soft(Path("unused"), method={"name": "eqlv2", "cls_focal_exponent": 2.0})
    with pytest.raises(ConfigError, match="classification loss of its own; remove it$"):
        tiny_soft(Path("unused"), method={"name": "eqlv2"}, model__roi_cls_loss="cross_entropy")
    ut = {"name": "eqlv2", "host": "unbiased_teacher", "burn_in_steps": 2}
    for config, saved in (
        (tiny_soft(Path("unused"), method={"name": "eqlv2"}), 0.0),
        (tiny_config(Path("unused"), method=ut), 1.5),
    ):
        tree = config.model_dump(mode="json")
        assert tree["method"]["cls_focal_exponent"] == saved  # all keys are saved
        assert resolve(tree, {}, where="saved") == config


def test_scores_of_classes_do_not_compete():
    config = tiny_soft(Path("unused"), method={"name": "eqlv2"})
    model = build_method(config).build_model(3)
    assert isinstance(model, SigmoidDetector)
    # p = (.2, .9, .9, .5): .9 * .8 = .72 twice
    logits = torch.tensor([[0.2, 0.9, 0.9, 0.5]]).logit()
    assert model.probabilities(logits)[0].tolist() == pytest.approx([0.2, 0.72, 0.72, 0.4], rel=1e-5)
    bias = model.roi_heads.box_predictor.cls_score.bias
    assert bias.tolist() == pytest.approx([0.0] + [math.log(0.001 / 0.999)] * 3, rel=1e-5)


def test_before_the_first_gradient_all_weights_are_one_and_gradients_add_up():
    method = build_method(tiny_soft(Path("unused"), method={"name": "eqlv2"}))
    assert isinstance(method, EqlV2)
    state = method.build_state(DataSizes(1, 1, 2))
    assert state.ratios.tolist() == [100, 100] and state.tensors() == {}
    batch = batch_of(0, 0, 1)
    method.update(state, batch, {}, {"gradients": torch.tensor([[1.0, 0.0], [2.0, 4.0]])}, None)
    method.update(state, batch, {}, {"gradients": torch.tensor([[3.0, 0.0], [2.0, 0.0]])}, None)
    assert state.ratios.tolist() == [1.0, 0.0]
    copy = method.build_state(DataSizes(1, 1, 2))
    copy.load(state.tensors(), "there")
    assert torch.equal(copy.sums, state.sums)


def test_small_gradients_have_ratios_too_and_the_state_is_its_own():
    state = GradientRatios(torch.zeros(2, 2, dtype=torch.float64))
    kept = torch.tensor([[1e-4, 0.5], [2e-4, 0.25]], dtype=torch.float64)
    state.load({"gradients": kept}, "there")
    assert state.ratios.tolist() == pytest.approx([0.5, 2.0])
    kept += 1
    assert state.ratios.tolist() == pytest.approx([0.5, 2.0])
    method = build_method(tiny_soft(Path("unused"), method={"name": "eqlv2"}))
    fresh = method.build_state(DataSizes(1, 1, 7))
    assert method.state_bytes(DataSizes(1, 1, 7)) == fresh.sums.numel() * fresh.sums.element_size() == 112


@pytest.mark.parametrize("name", ["eqlv2", "classifier_retraining"])
def test_the_host_says_how_much_an_roi_counts(name: str, monkeypatch: pytest.MonkeyPatch):
    later = {"retrain_from_step": 4} if name == "classifier_retraining" else {}
    method = build_method(tiny_soft(Path("unused"), method={"name": name, **later}))
    torch.manual_seed(1)
    student, batch, kept = method.build_model(CLASSES).train(), batch_of(3, 0, 1), {}
    state = method.build_state(DataSizes(4, 4, CLASSES))
    real = method.host.forward

    def watched(*args: object) -> SoftPass:
        found = real(*args)
        kept["pass"] = replace(found, weights=torch.linspace(0, 1, len(found.weights)))
        return kept["pass"]

    monkeypatch.setattr(method.host, "forward", watched)
    terms = method.losses(student, batch, student, state).losses
    roi, weights = kept["pass"].roi, kept["pass"].weights
    first = sum(roi.counts[:4])
    if name == "eqlv2":
        rows = equalized(roi.logits, roi.labels, torch.ones(CLASSES), torch.ones(CLASSES))[0]
    else:
        rows = focal_cross_entropy(roi.logits, roi.labels, method.config.cls_focal_exponent)
    for part, own in (("sup", slice(0, first)), ("unsup", slice(first, None))):
        term = terms[f"{part}/roi_cls"]
        assert float(term.total.detach()) == pytest.approx(float((rows[own] * weights[own]).sum().detach()), rel=1e-5)
        assert float(term.count) == pytest.approx(float(weights[own].sum()), rel=1e-5)


def test_from_its_step_on_only_the_classes_are_asked_for():
    settings = {"name": "classifier_retraining", "retrain_from_step": 3, "burn_in_steps": 2}
    method = build_method(tiny_soft(Path("unused"), method=settings))
    torch.manual_seed(1)
    student = method.build_model(CLASSES).train()
    for step, alone in ((2, False), (3, True), (4, True)):
        terms = method.losses(student, batch_of(step, 0, 1), student, None).losses
        met = {name for name, term in terms.items() if float(term.count) > 0 and not name.startswith("unsup/boxes")}
        assert (met == {"sup/roi_cls", "unsup/roi_cls"}) == alone, (step, met)
        assert any(float(terms[f"unsup/boxes_{gate}"].count) > 0 for gate in ("rpn", "cls", "reg"))
    _, rest = method.param_groups()
    assert rest.lr_at(2) == method.lr_at(2) and rest.lr_at(3) is None


@pytest.mark.parametrize(
    "tensors", [{}, {"gradients": torch.zeros(2, 3)}, {"gradients": torch.full((2, 2), torch.nan).double()}]
)
def test_gradients_that_do_not_fit_are_refused(tensors: dict[str, torch.Tensor]):
    with pytest.raises(CheckpointError, match="^there: its gradients of the classes"):
        GradientRatios(torch.zeros(2, 2, dtype=torch.float64)).load(tensors, "there")


def test_eqlv2_goes_on_bit_for_bit(tmp_path: Path):
    settings = {"name": "eqlv2", "pseudo_score_floor": 1e-4, "cls_pseudo_threshold": 1e-4, "rpn_pseudo_threshold": 1e-4}
    change = {"labels__score_floor": 1e-5, "optim__steps": 4}
    launch(tiny_soft(tmp_path / "one", method=settings, **change))
    launch(tiny_soft(tmp_path / "two", method=settings, **change, run__stop_at=2))
    launch(tiny_soft(tmp_path / "two", method=settings, **change), resume=True)
    assert_same_bits(tmp_path / "one", tmp_path / "two")


# --- classifier retraining -------------------------------------------------------------------------------------------


def test_in_the_end_only_the_last_layer_of_the_classifier_moves(tmp_path: Path):
    settings = {"name": "classifier_retraining", "retrain_from_step": 4}
    run = launch(tiny_soft(tmp_path / "run", method=settings, optim__steps=7)).path
    before, after = (open_checkpoint(run / "checkpoints" / f"step_{step:08d}").tensors("student") for step in (4, 7))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"{CLASSIFIER}weight", f"{CLASSIFIER}bias"}


def test_labelled_images_are_then_listed_by_balanced_classes(tmp_path: Path):
    settings = {"name": "classifier_retraining", "retrain_from_step": 4, "most_repeats": 3.0}
    config = tiny_soft(tmp_path, method=settings)
    data = BOXES.prepare(config.data, tmp_path / "data")
    (listing,) = build_method(config).listings(None, sizes_of(data))
    assert (listing.set_name, listing.first_step) == ("labeled", 4)
    counts = np.zeros(6)
    for row in range(10):
        counts[data.labeled.classes_at(row)] += 1
    for row in range(10):
        found = data.labeled.classes_at(row)
        rarest = min(counts[c] for c in found) if len(found) else counts.max()
        assert listing.factors[row] == math.ceil(min(counts.max() / rarest, 3.0))


@pytest.mark.parametrize("step", [8, 100])
def test_a_second_stage_outside_the_run_is_refused(step: int):
    with pytest.raises(ConfigError, match=f"method.retrain_from_step={step} must lie between"):
        tiny_soft(Path("unused"), method={"name": "classifier_retraining", "retrain_from_step": step})
