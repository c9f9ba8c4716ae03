"""Which detectors there are, and which method trains which."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from raydet.config.detector import CascadeConfig, ModelConfig
from raydet.errors import ConfigError
from raydet.families.detection.config import METHODS
from raydet.registry import build_method
from tests.helpers import tiny_config, tiny_soft


def test_a_detector_is_a_faster_rcnn_unless_another_is_asked_for():
    assert ModelConfig().detector == "faster_rcnn"


def test_the_defaults_of_a_cascade_are_the_papers():
    cascade = CascadeConfig()
    assert cascade.ious == (0.5, 0.6, 0.7)
    assert cascade.box_weights == ((10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15))
    assert cascade.loss_weights == (1, 1, 1)


def test_each_detector_is_trained_by_the_methods_that_say_so():
    takes = {each.model_fields["name"].default: each.detectors for each in METHODS}
    assert {name for name, detectors in takes.items() if "cascade_rcnn" in detectors} == {
        "supervised",
        "unbiased_teacher",
        "il_net",
    }
    assert all("faster_rcnn" in detectors for detectors in takes.values())


def test_a_method_refuses_a_detector_that_its_paper_does_not_allow(tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        tiny_soft(tmp_path / "run", model__detector="cascade_rcnn")
    text = str(error.value)
    assert "method.name=soft_teacher trains model.detector=faster_rcnn, not cascade_rcnn" in text
    assert "its box spread and its weights of background are read from one box head" in text
    assert "methods for cascade_rcnn: supervised, unbiased_teacher, il_net" in text


def test_settings_of_another_detector_are_refused():
    with pytest.raises(ValidationError, match="roi_fg_iou is for one box head; .* set cascade.ious"):
        ModelConfig(detector="cascade_rcnn", roi_fg_iou=0.6)
    with pytest.raises(ValidationError, match="cascade is for detector: cascade_rcnn, and detector is faster_rcnn"):
        ModelConfig(cascade=CascadeConfig(ious=(0.4, 0.5, 0.6)))
    with pytest.raises(ValidationError, match="there are: ious 2, box_weights 3, loss_weights 3"):
        CascadeConfig(ious=(0.5, 0.6))
    with pytest.raises(ValidationError, match="faster_rcnn.*cascade_rcnn"):
        ModelConfig(detector="retinanet")


def test_a_resolved_configuration_can_be_read_again():
    for detector in ("faster_rcnn", "cascade_rcnn"):
        config = ModelConfig(detector=detector)
        assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_the_weights_of_the_stages_multiply_those_of_the_method(tmp_path: Path):
    config = tiny_config(
        tmp_path / "run",
        model__detector="cascade_rcnn",
        model__cascade__loss_weights=[1.0, 0.5, 0.25],
        method={"name": "unbiased_teacher", "burn_in_steps": 3, "unsup_cls_weight": 4.0},
    )
    weights = build_method(config).loss_weights
    assert [weights[f"sup/roi_cls{end}"] for end in ("", "_2", "_3")] == [1.0, 0.5, 0.25]
    assert [weights[f"unsup/roi_cls{end}"] for end in ("", "_2", "_3")] == [4.0, 2.0, 1.0]
    assert [weights[f"unsup/roi_reg{end}"] for end in ("", "_2", "_3")] == [0.0, 0.0, 0.0]
    assert weights["unsup/rpn_cls"] == 4.0 and "unsup/rpn_cls_2" not in weights
