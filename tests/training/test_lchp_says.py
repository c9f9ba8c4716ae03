"""What LCHP says about itself: alarms, attention, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.errors import ConfigError
from raydet.families.localization.config import LocalizationConfig
from raydet.metrics import read_metrics
from raydet.sweep.burn_in import burn_in_key
from raydet.train.launch import launch
from raydet.window import Window
from tests.helpers import TINY_PLACES, tiny_places
from tests.training.lchp_steps import batch_of, lchp, model_of

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


@pytest.mark.parametrize(("every", "steps"), [(2, [2, 4]), (1, [2, 3, 4])])
def test_stability_is_measured_with_and_without_momentum(tmp_path: Path, every: int, steps: list[int]):
    run = launch(tiny_places(tmp_path / "run", method__stability_every=every, run__stop_at=5)).path
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]
    assert [line["step"] for line in lines if "stability/momentum" in line] == steps
    for line in lines:
        for name in ("stability/momentum", "stability/without"):
            assert 0 <= line.get(name, 0.0) <= 1
