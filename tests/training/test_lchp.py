"""What a step of LCHP computes: laws of the learning rate, gates, boxes, copies."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raydet.contract import DataSizes
from raydet.families.localization.model import LocalizationModel
from raydet.families.localization.views import draw_strong, strong_boxes
from raydet.randomness import stream
from raydet.vision.classifiers.layers import norm
from tests.training.lchp_steps import CLASSES, SIDE, batch_of, lchp, model_of

# --- facts 8 and 13 ---------------------------------------------------------------------------------------------------


def test_fact_8_the_classifiers_rate_falls_by_the_epoch_and_the_localizers_stays(tmp_path: Path):
    method = lchp(tmp_path, steps=800, burn_in_steps=400, classifier_decay_steps=10)
    assert method.run.optim.lr == 2e-3
    classifier, localizer = method.param_groups()
    found = [classifier.lr_at(epoch * 10) for epoch in (0, 1, 10, 39)]
    assert found == pytest.approx([2e-3, 1.8e-3, 6.97357e-4, 3.28464e-5], rel=1e-5)
    assert classifier.lr_at(399) == pytest.approx(3.28464e-5, rel=1e-5)
    assert classifier.lr_at(400) is None  # frozen
    assert [localizer.lr_at(step) for step in (0, 390, 399, 400, 9999)] == [2e-3] * 5


def test_fact_13_a_higher_threshold_keeps_a_subset(tmp_path: Path):
    kept: list[Tensor] = []
    for threshold in (0.0, 0.3, 0.6, 0.9, 0.97):
        method = lchp(tmp_path, crop_confidence_threshold=threshold)
        found = method.losses(model_of(method), batch_of(5, 16), None, None)
        kept.append(found.per_view["kept"].bool())
    assert kept[0].all() and not kept[-1].all()
    for low, high in zip(kept, kept[1:], strict=False):
        assert (low | ~high).all()


def test_the_second_pass_of_a_step_is_not_compared_with_its_first(tmp_path: Path):
    method = lchp(tmp_path, stability_every=1)
    model = model_of(method)

    def said(step: int) -> list[float]:
        return method.losses(model, batch_of(step), None, None).per_view["stable"].tolist()

    said(0)
    assert all(0 <= iou <= 1 for iou in said(1))  # the first pass of step 1: since step 0
    assert all(math.isnan(iou) for iou in said(1))  # its second
    assert all(0 <= iou <= 1 for iou in said(2))


# --- gradients, modes and copies --------------------------------------------------------------------------------------


def touched(model: LocalizationModel, loss: Tensor) -> set[str]:
    model.zero_grad()
    loss.backward(retain_graph=True)
    return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_each_loss_reaches_its_own_network_alone(tmp_path: Path):
    method = lchp(tmp_path, crop_confidence_threshold=0.0)
    model = model_of(method)
    found = method.losses(model, batch_of(0), None, None).losses
    assert touched(model, found["init/cls"].total) == {"classifier"}
    assert touched(model, found["init/reg"].total) == {"localizer"}
    later = method.losses(model, batch_of(6), None, None).losses
    assert touched(model, later["refine/reg"].total) == {"localizer"}


def test_a_batch_that_is_all_rejected_is_exactly_zero_on_the_graph_and_still_counts(tmp_path: Path):
    method = lchp(tmp_path, crop_confidence_threshold=0.999999)
    model = model_of(method)
    model.classifier.last.weight.data.zero_()  # sure of nothing
    term = method.losses(model, batch_of(6), None, None).losses["refine/reg"]
    assert float(term.total.detach()) == 0.0 and term.total.requires_grad
    assert int(term.count) == 4  # N, not the number that passed


def test_a_box_without_an_inside_passes_no_gate(tmp_path: Path):
    method = lchp(tmp_path, crop_confidence_threshold=0.0)
    model = model_of(method)
    assert model.localizer is not None
    model.localizer.last.weight.data.zero_()
    model.localizer.last.bias.data.copy_(torch.tensor([0.0, 0.0, -20.0, 0.0]))  # no width
    found = method.losses(model, batch_of(6), None, None)
    assert found.per_view["kept"].tolist() == [0, 0, 0, 0]


def test_a_box_that_the_strong_view_pushes_out_is_not_learned_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    method, pushed = lchp(tmp_path, crop_confidence_threshold=0.0), strong_boxes
    model = model_of(method)

    def out_of_the_view(boxes: Tensor, strong: Tensor) -> Tensor:
        moved = pushed(boxes, strong)
        moved[0] = torch.tensor([1.0, 0.0, 1.0, 1.0])  # what is left of it at the right border
        return moved

    whole = method.losses(model, batch_of(6), None, None)
    monkeypatch.setattr("raydet.families.localization.methods.lchp.strong_boxes", out_of_the_view)
    found = method.losses(model, batch_of(6), None, None)
    assert whole.per_view["kept"].tolist() == [1, 1, 1, 1] and found.per_view["kept"].tolist() == [0, 1, 1, 1]
    assert found.per_view["left_view"].tolist() == [1, 0, 0, 0]
    term = found.losses["refine/reg"]
    assert term.total < whole.losses["refine/reg"].total and int(term.count) == 4  # it still counts in N


def test_a_crop_must_be_surer_than_the_threshold_and_not_as_sure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    method = lchp(tmp_path, crop_confidence_threshold=0.5)
    said = torch.tensor([0.5, 0.75, 0.5, 0.25])
    monkeypatch.setattr(method, "_gate_confidence", lambda *_: said)
    assert method.losses(model_of(method), batch_of(6), None, None).per_view["kept"].tolist() == [0, 1, 0, 0]


def test_the_momentum_classifier_follows_in_the_first_stage_and_rests_in_the_second(tmp_path: Path):
    method = lchp(tmp_path)  # the stage ends at 4
    model = model_of(method)
    assert model.pseudo_classifier is not None
    before = model.pseudo_classifier.last.weight.clone()
    assert torch.equal(before, model.classifier.last.weight)  # theta_2 starts as theta_1
    model.classifier.last.weight.data += 1.0
    method.after_step(model, 0)
    assert torch.allclose(model.pseudo_classifier.last.weight, before + 0.1)  # .9 theta_2 + .1 theta_1
    method.after_step(model, 4)
    assert torch.allclose(model.pseudo_classifier.last.weight, before + 0.1)
    assert not model.pseudo_classifier.training and model.classifier.training
    assert not any(p.requires_grad for p in model.pseudo_classifier.parameters())


def test_batch_norms_rest_while_the_classifier_is_frozen_and_the_copy_has_their_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    by_the_batch = partial(norm, "batch")
    monkeypatch.setattr("raydet.vision.classifiers.small_conv.norm", lambda _, channels: by_the_batch(channels))
    method = lchp(tmp_path, crop_confidence_threshold=0.0)
    model = model_of(method)
    of = {name: buffer for name, buffer in model.named_buffers() if name.endswith("running_mean")}
    (name,) = [name for name in of if name.startswith("classifier.")][:1]
    assert of[name].eq(0).all()  # as torch starts it, in the copy too
    method.losses(model, batch_of(0), None, None)
    method.after_step(model, 0)
    assert of[name].abs().sum() > 0
    assert torch.allclose(of[f"pseudo_{name}"], 0.1 * of[name])  # .9 x 0 + .1 x theta_1's

    before = {name: buffer.clone() for name, buffer in of.items()}
    four, two = batch_of(6), batch_of(6)
    two = replace(
        two, pixels=two.pixels[:2], classes=two.classes[:2], strong=two.strong[:2], image_ids=two.image_ids[:2]
    )
    pixels = [each.pixels / 255 for each in (four, two)]
    boxes = torch.tensor([[4.0, 4, 28, 28]] * 4)
    alone = method._gate_confidence(model, pixels[1], boxes[:2], two.classes)
    assert torch.allclose(alone, method._gate_confidence(model, pixels[0], boxes, four.classes)[:2], atol=1e-6)
    method.losses(model, four, None, None)
    changed = {name for name, buffer in of.items() if not torch.equal(buffer, before[name])}
    assert changed and all(name.startswith("localizer.") for name in changed)


def test_without_momentum_the_copy_is_the_classifier(tmp_path: Path):
    method = lchp(tmp_path, pseudo_net_momentum=0.0)
    model = model_of(method)
    model.classifier.last.weight.data += 0.37
    method.after_step(model, 0)
    assert model.pseudo_classifier is not None
    assert torch.equal(model.pseudo_classifier.last.weight, model.classifier.last.weight)


@pytest.mark.parametrize(("target", "moves"), [("frozen_init", False), ("ema", True)])
def test_who_says_the_box_of_the_plain_view(target: str, moves: bool, tmp_path: Path):
    method = lchp(tmp_path, refine_target=target, refine_target_keep_rate=0.5)
    model = model_of(method)
    assert model.target_localizer is not None and model.localizer is not None
    model.localizer.last.bias.data += 1.0
    method.after_step(model, 3)  # the last step of the first stage
    assert torch.equal(model.target_localizer.last.bias, model.localizer.last.bias)
    start = model.localizer.last.bias.clone()
    model.localizer.last.bias.data += 1.0
    method.after_step(model, 4)
    assert torch.allclose(model.target_localizer.last.bias, start + (0.5 if moves else 0.0))


def test_the_gate_looks_at_what_it_is_told_to(tmp_path: Path):
    found = {}
    for network in ("classifier", "pseudo_classifier"):
        for kind in ("max", "label"):
            method = lchp(tmp_path, gate_network=network, gate_class=kind)
            model = model_of(method)
            model.classifier.last.weight.data *= 3
            found[network, kind] = method.losses(model, batch_of(6), None, None).per_view["confidence"]
    assert not torch.equal(found["classifier", "max"], found["pseudo_classifier", "max"])
    assert (found["classifier", "label"] <= found["classifier", "max"]).all()
    assert not torch.equal(found["classifier", "label"], found["classifier", "max"])


@pytest.mark.parametrize("network", ["classifier", "pseudo_classifier"])
def test_confidence_is_a_share_among_the_classes_of_a_crop(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []
    logits = torch.tensor([[math.log(2), 0.0, 0.0], [0.0, 0.0, math.log(6)], [0.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    method = lchp(tmp_path, gate_network=network, gate_class="max")
    model = model_of(method)
    for name in ("classifier", "pseudo_classifier"):

        def said(images: Tensor, name: str = name) -> Any:
            asked.append(name)
            return type("Said", (), {"logits": logits})()

        monkeypatch.setattr(getattr(model, name), "forward", said)
    boxes, classes = torch.tensor([[0.0, 0.0, 9.0, 9.0]]).repeat(4, 1), torch.tensor([1, 2, 0, 0])
    pixels = torch.zeros(4, 3, SIDE, SIDE)
    assert method._gate_confidence(model, pixels, boxes, classes).tolist() == pytest.approx(
        [1 / 2, 3 / 4, 1 / 3, 1 / 3]
    )
    method = lchp(tmp_path, gate_network=network, gate_class="label")
    assert method._gate_confidence(model, pixels, boxes, classes).tolist() == pytest.approx(
        [1 / 4, 3 / 4, 1 / 3, 1 / 3]
    )
    assert set(asked) == {network}


@pytest.mark.parametrize(("mode", "in_training"), [("eval", False), ("train", True)])
def test_the_target_box_is_said_in_the_mode_that_is_set(mode: str, in_training: bool, tmp_path: Path):
    method, modes = lchp(tmp_path, target_forward_mode=mode), list[bool]()
    model = model_of(method)
    assert model.localizer is not None
    model.localizer.register_forward_hook(lambda network, *rest: modes.append(network.training))
    assert not method.target_boxes(model, torch.rand(4, 3, SIDE, SIDE)).requires_grad
    assert modes == [in_training] and model.localizer.training


@pytest.mark.parametrize("target", ["ema", "frozen_init"])
@pytest.mark.parametrize(("mode", "in_training"), [("eval", False), ("train", True)])
def test_a_target_that_is_a_copy_is_asked_in_that_mode_too_and_stays_what_it_is(
    target: str, mode: str, in_training: bool, tmp_path: Path
):
    method, modes = lchp(tmp_path, target_forward_mode=mode, refine_target=target), list[bool]()
    model = model_of(method)
    copy = model.target_localizer
    assert copy is not None
    before = {name: value.clone() for name, value in copy.state_dict().items()}
    copy.register_forward_hook(lambda network, *rest: modes.append(network.training))
    assert not method.target_boxes(model, torch.rand(4, 3, SIDE, SIDE)).requires_grad
    assert modes == [in_training] and not copy.training
    assert all(torch.equal(value, before[name]) for name, value in copy.state_dict().items())


def test_a_box_of_nearly_all_of_the_image_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # .95 of the image: .96 is the whole, .94 is not; in both stages
    method = lchp(tmp_path)
    model = model_of(method)
    boxes = torch.stack([torch.zeros(4), torch.zeros(4), torch.ones(4), torch.tensor([0.96, 0.94, 0.95, 0.5])], dim=1)
    monkeypatch.setattr(method, "target_boxes", lambda *given: boxes)
    found = method.losses(model, batch_of(6), None, None).per_view
    assert found["is_whole"].tolist() == [1, 0, 0, 0]
    assert found["box_area"].tolist() == pytest.approx([0.96, 0.94, 0.95, 0.5])
    real = method.algorithm_1
    monkeypatch.setattr(method, "algorithm_1", lambda *given, **more: replace(real(*given, **more), boxes=boxes * SIDE))
    assert method.losses(model, batch_of(0), None, None).per_view["is_whole"].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("stage", ["refine", "pseudo_label_only"])
def test_boxes_of_the_maps_are_said_in_shares_of_the_image(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    method = lchp(tmp_path, stage=stage)
    model, boxes = model_of(method), torch.tensor([[0.0, 8.0, 16.0, 32.0]])
    real = method.algorithm_1
    monkeypatch.setattr(method, "algorithm_1", lambda *given, **more: replace(real(*given, **more), boxes=boxes))
    pixels, classes = torch.rand(1, 3, SIDE, SIDE), torch.zeros(1, dtype=torch.int64)
    said = method.pseudo_boxes_of(model, pixels, classes)
    if stage == "refine":
        assert said is not None and said.tolist() == [[0, 0.25, 0.5, 1]]
    else:  # there is no localizer: they are what it says itself
        assert said is None and method.locate(model, pixels, classes).tolist() == [[[0, 0.25, 0.5, 1]]]


def test_the_stages_are_said_where_there_are_two(tmp_path: Path):
    sizes = DataSizes(24, 0, CLASSES)
    assert "initialisation until 4, refinement until 8" in lchp(tmp_path).notes(sizes)
    assert not any("refinement" in note for note in lchp(tmp_path, stage="init").notes(sizes))


def test_a_stage_has_no_samples_of_the_others_terms(tmp_path: Path):
    method = lchp(tmp_path)
    for step, empty in ((0, {"refine/reg"}), (6, {"init/cls", "init/reg"})):
        terms = method.losses(model_of(method), batch_of(step), None, None).losses
        assert {name for name, term in terms.items() if float(term.count) == 0} == empty
        assert all(float(terms[name].total.detach()) == 0 for name in empty)


def test_an_irrelevant_switch_leaves_the_step_as_it_is(tmp_path: Path):
    def first_stage(**method: Any) -> list[Tensor]:
        own = lchp(tmp_path, **method)
        return [term.total for term in own.losses(model_of(own), batch_of(1), None, None).losses.values()]

    plain = first_stage()
    for changes in (
        {"crop_confidence_threshold": 0.5},
        {"aug_flip": False},
        {"stability_every": 1},
        {"refine_lr": 1.0},
    ):
        assert all(torch.equal(a, b) for a, b in zip(plain, first_stage(**changes), strict=True)), changes


def test_switching_one_operation_of_the_strong_view_off_leaves_the_others():
    whole = draw_strong(stream(0, "x"), scale=True, translation=True, flip=True)
    part = draw_strong(stream(0, "x"), scale=False, translation=True, flip=True)
    assert torch.equal(whole[2:], part[2:]) and part[:2].tolist() == [1.0, 1.0]
