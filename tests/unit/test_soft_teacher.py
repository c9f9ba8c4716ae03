"""Soft Teacher's settings and gates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raydet.errors import ConfigError
from raydet.families.detection.methods.soft_teacher import SoftTeacher, above
from raydet.records import PseudoBoxes, Target, TeacherRef
from raydet.registry import build_method
from raydet.window import Window
from tests.helpers import tiny_config, tiny_soft


def method(**changes: object) -> SoftTeacher:
    built = build_method(tiny_soft(Path("unused"), method=dict(changes)))
    assert isinstance(built, SoftTeacher)
    return built


def label(scores: list[float], complete_above: float = 0.05) -> PseudoBoxes:
    number = len(scores)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(number, 1)
    classes, quality = torch.zeros(number, dtype=torch.int64), torch.ones(number)
    return PseudoBoxes("a", TeacherRef(0, ""), boxes, classes, torch.tensor(scores), quality, complete_above)


def test_what_is_kept_trains_the_classes_and_more_is_carried_for_the_other_gates():
    chosen = method(pseudo_score_floor=0.5, cls_pseudo_threshold=0.9, rpn_pseudo_threshold=0.9)
    said = label([0.95, 0.9, 0.7, 0.5, 0.2])
    kept = chosen.select(said)
    assert kept.kept.scores.tolist() == pytest.approx([0.95])  # strictly
    assert kept.dropped == {"score": 4} and kept.is_complete
    assert chosen.carried(said, kept).scores.tolist() == pytest.approx([0.95, 0.9, 0.7])
    assert not chosen.select(label([0.95], complete_above=0.93)).is_complete


def test_one_threshold_or_one_per_class():
    target = Target(torch.zeros(3, 4), torch.tensor([0, 1, 1]), torch.tensor([0.6, 0.6, 0.8]), torch.ones(3))
    assert above(target, 0.7).scores.tolist() == pytest.approx([0.8])
    assert above(target, torch.tensor([0.5, 0.8])).scores.tolist() == pytest.approx([0.6])  # .8 is not above .8


def test_views_of_other_methods_are_not_silently_ignored():
    with pytest.raises(ConfigError, match="data.views.short_side: method.name=soft_teacher has views of its own"):
        tiny_soft(Path("unused"), data__views={"short_side": [64]})


def test_a_classification_loss_of_other_methods_is_not_silently_ignored():
    with pytest.raises(ConfigError, match="model.roi_cls_loss.*set method.cls_focal_exponent"):
        tiny_soft(Path("unused"), model__roi_cls_loss="cross_entropy")


@pytest.mark.parametrize("key", ["cls_pseudo_threshold", "rpn_pseudo_threshold"])
def test_a_threshold_below_the_floor_is_refused(key: str):
    with pytest.raises(ConfigError, match=f"method.{key}=0.4 is below method.pseudo_score_floor=0.5"):
        tiny_soft(Path("unused"), method={"pseudo_score_floor": 0.5, "cls_pseudo_threshold": 0.9, key: 0.4})


def test_a_floor_below_what_is_stored_is_refused():
    with pytest.raises(ConfigError, match="method.pseudo_score_floor is below labels.score_floor=0.3"):
        tiny_soft(Path("unused"), labels__score_floor=0.3)


def test_soft_teachers_settings_are_not_those_of_others():
    with pytest.raises(ConfigError, match="method.box_spread_threshold: unknown key: for method.name=soft_teacher"):
        tiny_config(Path("unused"), method={"name": "unbiased_teacher", "box_spread_threshold": 0.1})


def test_the_alarm_names_the_threshold_of_the_classes():
    window = Window(steps=1)
    window.increase({"images": 4, "candidates": 10})
    window.raise_to("best_score", 0.7)
    alarm = method(cls_pseudo_threshold=0.9).explain_barren(window)
    assert alarm is not None and "best score is 0.70, method.cls_pseudo_threshold is 0.9" in alarm.message
    window.increase({"kept": 1})
    assert method().explain_barren(window) is None
