"""What LCHP says to the engine: laws of the learning rate, gates, copies, labels that it may not see, resuming."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raydet.contract import DataSizes
from raydet.data.located.index import LocatedIndex, write_located
from raydet.data.located.table import LocatedTable
from raydet.errors import ConfigError
from raydet.families.localization import data as family_data
from raydet.families.localization.batch import LocationBatch
from raydet.families.localization.config import LocalizationConfig
from raydet.families.localization.loader import LocationLoader
from raydet.families.localization.method import localization_method
from raydet.families.localization.methods.lchp import Lchp
from raydet.families.localization.model import LocalizationModel
from raydet.families.localization.views import draw_strong, strong_boxes
from raydet.metrics import read_metrics
from raydet.randomness import stream
from raydet.sweep.burn_in import burn_in_key
from raydet.train.checkpoint import latest_checkpoint, open_checkpoint
from raydet.train.launch import launch
from raydet.window import Window
from tests.helpers import TINY_PLACES, tiny_places
from tests.integration.runs import assert_same_bits, losses

SIDE, CLASSES = 32, 3


def lchp(tmp_path: Path, *, steps: int = 8, **method: Any) -> Lchp:
    changes = {f"method__{key}": value for key, value in method.items()}
    found = localization_method(tiny_places(tmp_path / "run", optim__steps=steps, **changes))
    assert isinstance(found, Lchp)
    return found


def model_of(method: Lchp) -> LocalizationModel:
    torch.manual_seed(0)
    return method.build_model(CLASSES).train()


def batch_of(step: int, count: int = 4) -> LocationBatch:
    rng = torch.Generator().manual_seed(step)
    strong = [draw_strong(stream(step, i), scale=True, translation=True, flip=True) for i in range(count)]
    return LocationBatch(
        step,
        [f"image {i}" for i in range(count)],
        torch.randint(256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=rng),
        torch.arange(count) % CLASSES,
        torch.stack(strong),
    )


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
    assert math.log(0.5) / math.log(0.9) == pytest.approx(6.58, abs=0.005)  # half-life of momentum .9, iterations


def test_fact_13_a_higher_threshold_keeps_a_subset(tmp_path: Path):
    kept: list[Tensor] = []
    for threshold in (0.0, 0.3, 0.6, 0.9, 0.97):
        method = lchp(tmp_path, crop_confidence_threshold=threshold)
        found = method.losses(model_of(method), batch_of(5, 16), None, None)
        kept.append(found.per_view["kept"].bool())
    assert kept[0].all() and not kept[-1].all()
    for low, high in zip(kept, kept[1:], strict=False):
        assert (low | ~high).all()


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


# --- what it may not see ----------------------------------------------------------------------------------------------


def test_boxes_of_nan_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clean = launch(tiny_places(tmp_path / "clean", data__val=None))

    def poisoned(path: Path, table: LocatedTable) -> None:
        write_located(path, LocatedTable(table.images, table.first, np.full_like(table.boxes, np.nan)))

    monkeypatch.setattr(family_data, "write_located", poisoned)
    spoilt = launch(tiny_places(tmp_path / "spoilt", data__val=None))
    hidden = family_data.LOCATED.open_hidden(spoilt.data)
    assert hidden is not None and np.isnan(hidden.boxes_at(0)).all()  # there they are
    assert LocatedIndex.open(spoilt.data / "labeled.arrow").num_boxes == 0  # and here they are not
    assert_same_bits(clean.path, spoilt.path)
    assert json.loads((spoilt.data / "mean_box.json").read_text()) == {"mean_box": None}


# --- stages, resuming, ranks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [2, 4, 6])  # in the first stage, at its end, in the second
def test_a_resumed_run_ends_with_the_same_bits(stop: int, tmp_path: Path):
    whole = launch(tiny_places(tmp_path / "whole")).path
    launch(tiny_places(tmp_path / "halved", run__stop_at=stop))
    halved = launch(tiny_places(tmp_path / "halved"), resume=True).path
    assert_same_bits(whole, halved)
    assert losses(whole) == losses(halved)


def test_the_classifier_stays_as_it_is_from_the_stages_end_on(tmp_path: Path):
    run = launch(tiny_places(tmp_path / "run", method__crop_confidence_threshold=0.0)).path
    at_4, at_8 = (open_checkpoint(run / "checkpoints" / f"step_{step:08d}").tensors("student") for step in (4, 8))
    moved = {name.split(".")[0] for name in at_4 if not torch.equal(at_4[name], at_8[name])}
    assert moved == {"localizer"}
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]
    assert [line["stage"] for line in lines] == ["init"] * 4 + ["refine"] * 4
    assert all(line["loss/refine/reg/raw"] == 0 for line in lines[:4])
    assert all(line["loss/init/cls/raw"] == 0 for line in lines[4:])
    optimizer = latest_checkpoint(run / "checkpoints").tensors("optimizer")
    assert {name.split("/")[1].split(".")[0] for name in optimizer} == {"localizer"}  # no stale momentum is kept


def test_a_run_forked_at_the_stages_end_is_the_run_that_went_on(tmp_path: Path):
    whole = launch(tiny_places(tmp_path / "whole")).path
    fork = whole / "checkpoints" / "step_00000004"
    forked = launch(tiny_places(tmp_path / "forked", run__fork_from=str(fork))).path
    assert_same_bits(whole, forked)


@pytest.mark.parametrize("target", ["frozen_init", "ema"])
def test_a_fork_with_a_copy_of_the_localizer_is_the_run_that_had_it_all_along(tmp_path: Path, target: str):
    online = launch(tiny_places(tmp_path / "online")).path
    fork = str(online / "checkpoints" / "step_00000004")  # has no copy: it starts as one of the localizer
    forked = launch(tiny_places(tmp_path / "forked", run__fork_from=fork, method__refine_target=target)).path
    whole = launch(tiny_places(tmp_path / "whole", method__refine_target=target)).path
    assert_same_bits(whole, forked)


def test_two_ranks_see_the_views_and_make_the_boxes_of_one(tmp_path: Path):
    config = tiny_places(tmp_path / "run")
    method, data = localization_method(config), family_data.LOCATED.prepare(config.data, tmp_path / "data")
    assert isinstance(method, Lchp)
    model = method.build_model(len(data.class_names)).eval()

    def step(s: int, rank: int, world: int) -> tuple[list[str], Tensor, Tensor, Tensor]:
        loader = LocationLoader(data.labeled, config, method.stage_at, method.strong, rank=rank, world=world)
        views = loader.take(s)
        boxes = method.algorithm_1(model, views.pixels.float() / 255).boxes
        return views.ids, views.pixels, views.strong, boxes

    for s in (0, 3, 4, 7):
        ids, pixels, strong, boxes = step(s, 0, 1)
        halves = [step(s, rank, 2) for rank in range(2)]
        assert ids == [each for half in halves for each in half[0]]
        for number, whole in enumerate((pixels, strong, boxes), start=1):
            assert torch.equal(whole, torch.cat([half[number] for half in halves]))


def test_stages_shuffle_anew(tmp_path: Path):
    config = tiny_places(tmp_path / "run")
    method, data = localization_method(config), family_data.LOCATED.prepare(config.data, tmp_path / "data")
    loader = LocationLoader(data.labeled, config, method.stage_at, method.strong, rank=0, world=1)
    assert loader.take(0).ids != loader.take(4).ids
    first_epoch = [image_id for s in range(4) for image_id in loader.take(s).ids]
    assert sorted(first_epoch) == sorted(data.labeled.ids())  # 4 steps of 6 are the 24 images, each once


# --- what it says about itself ----------------------------------------------------------------------------------------


def test_an_alarm_says_that_nothing_passes_and_how_sure_the_classifier_is(tmp_path: Path):
    method = lchp(tmp_path, crop_confidence_threshold=0.9)
    window = Window(steps=3)
    window.increase({"count/kept": 12, "sum/kept": 0, "count/confidence": 12, "sum/confidence": 3.0})
    alarm = method.explain_barren(window)
    assert alarm is not None and alarm.after_steps == 200
    assert "method.crop_confidence_threshold=0.9" in alarm.message and "0.25" in alarm.message
    window.increase({"sum/kept": 1})
    assert method.explain_barren(window) is None
    assert method.explain_barren(Window(steps=3)) is None  # the first stage has no gate


def test_an_alarm_says_that_maps_are_flat(tmp_path: Path):
    method, window = lchp(tmp_path), Window(steps=3)
    window.increase({"count/is_flat": 12, "sum/is_flat": 9})
    alarm = method.explain_barren(window)
    assert alarm is not None and alarm.name == "no_attention" and "of 75% of the images" in alarm.message
    window.increase({"count/is_flat": 12})
    assert method.explain_barren(window) is None


def test_an_alarm_says_that_boxes_are_the_whole_image_and_what_to_raise(tmp_path: Path):
    method, window = lchp(tmp_path, attention_threshold=0.5, alarm_after_steps=60), Window(steps=3)
    window.increase({"count/is_whole": 12, "sum/is_whole": 6, "count/is_flat": 12})  # half is not most
    assert method.explain_barren(window) is None
    window.increase({"sum/is_whole": 3})
    alarm = method.explain_barren(window)
    assert alarm is not None and (alarm.name, alarm.after_steps) == ("boxes_are_the_image", 60)
    assert "75% of the boxes" in alarm.message and "raise method.attention_threshold=0.5" in alarm.message
    window.increase({"count/kept": 12, "sum/kept": 12})  # the refinement: the localizer itself says them
    alarm = method.explain_barren(window)
    assert alarm is not None and "lower method.refine_lr=" in alarm.message


def test_the_attention_of_features_is_their_magnitude(tmp_path: Path):
    method = lchp(tmp_path, attention_source="trunk_features", mask_out_enabled=False)
    model = model_of(method)
    network, features = model.pseudo_classifier, torch.zeros(1, 2, 4, 4)
    features[0, :, 1, 2] = torch.tensor([3.0, -3.0])  # would cancel
    network.look = lambda images: (torch.zeros(1, 1, 4, 4), features)
    found = method.algorithm_1(model, torch.zeros(1, 3, 8, 8))
    assert found.attention[0, 1, 2] == 3.0 and not found.is_flat.any()


def test_attention_is_the_mean_of_the_maps_and_what_it_finds_is_filled_as_told(tmp_path: Path):
    for fill, expected in (("black_pixel", [0.0, 0.0, 0.0]), ("normalized_zero", [0.1, 0.2, 0.3])):
        method = lchp(tmp_path, mask_fill=fill, upsample_before_threshold=False, attention_threshold=0.5)
        model = model_of(method)
        network, maps = model.pseudo_classifier, torch.zeros(1, 2, 4, 4)
        maps[0, :, 1, 2], maps[0, 0, 3, 0] = torch.tensor([3.0, 1.0]), 0.5
        network.trunk.mean.copy_(torch.tensor([0.1, 0.2, 0.3]).reshape(network.trunk.mean.shape))
        network.look = lambda images, maps=maps: (maps, torch.zeros(1, 5, 4, 4))
        found = method.algorithm_1(model, torch.ones(1, 3, 8, 8))
        assert found.attention[0, 1, 2] == 2.0 and found.attention[0, 3, 0] == 0.25
        assert found.masked[0, :, 2, 4].tolist() == pytest.approx(expected)  # cell (1, 2) of 2 x 2 pixels
        assert found.masked[0, :, 7, 7].tolist() == [1.0, 1.0, 1.0]


def test_all_zero_attention_is_trained_through_and_counted(tmp_path: Path):
    method = lchp(tmp_path)
    model = model_of(method)
    assert model.pseudo_classifier is not None
    model.pseudo_classifier.attention[1].weight.data.zero_()
    model.pseudo_classifier.attention[1].bias.data.zero_()
    found = method.losses(model, batch_of(0), None, None)
    assert found.per_view["is_flat"].tolist() == [1, 1, 1, 1]
    assert found.per_view["box_area"].tolist() == [1, 1, 1, 1]  # the whole image
    assert all(bool(term.total.isfinite()) for term in found.losses.values())


def test_searches_share_the_first_stage_where_only_the_second_differs(tmp_path: Path):
    plain = burn_in_key(tiny_places(tmp_path / "a"))
    later = ({"method__crop_confidence_threshold": 0.5}, {"method__aug_flip": False}, {"method__refine_lr": 0.1})
    assert {burn_in_key(tiny_places(tmp_path / "b", **changes)) for changes in later} == {plain}
    sooner = ({"method__attention_threshold": 0.5}, {"method__pseudo_net_momentum": 0.5}, {"optim__lr": 0.1})
    assert plain not in {burn_in_key(tiny_places(tmp_path / "b", **changes)) for changes in sooner}


def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path):
    def refused(**changes: Any) -> str:
        with pytest.raises(ConfigError) as error:
            tiny_places(tmp_path / "run", **changes)
        return str(error.value)

    assert "method.burn_in_steps=8 leaves nothing of optim.steps=8" in refused(method__burn_in_steps=8)
    assert "laws of the learning rate of its own" in refused(optim__schedule="cosine")
    assert "method.init_reg_weight" in refused(method__init_reg_weight=-1.0)
    assert "size=64 cannot be cut out of resize=40" in refused(data__views__size=64)
    assert "unlabeled: these methods learn from class labels alone" in refused(data__unlabeled="elsewhere")
    whole = {**TINY_PLACES["model"], "localizer_backbone": "vgg19_bn"}
    assert "backbone vgg19_bn without `weights`" in refused(model=whole)
    assert "max_objects must be 1" in refused(data__labeled__shapes__max_objects=2)
    assert isinstance(tiny_places(tmp_path / "run", method__burn_in_steps=8, method__stage="init"), LocalizationConfig)


def test_a_gate_that_lets_everything_through_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    launch(tiny_places(tmp_path / "run", method__crop_confidence_threshold=0.0, run__stop_at=1))
    assert "warning: method.crop_confidence_threshold=0 learns from every box" in capsys.readouterr().out


def test_stability_is_measured_with_and_without_momentum(tmp_path: Path):
    run = launch(tiny_places(tmp_path / "run", method__stability_every=2)).path
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]
    assert [line["step"] for line in lines if "stability/momentum" in line] == [2, 4]
    for line in lines:
        for name in ("stability/momentum", "stability/without"):
            assert 0 <= line.get(name, 0.0) <= 1
