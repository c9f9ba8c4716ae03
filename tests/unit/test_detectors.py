"""What asking for a Mask R-CNN means, and who may ask for one."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from raydet.config.detector import ModelConfig
from raydet.errors import ConfigError
from raydet.families.detection.config import METHODS, detectors_of
from raydet.registry import build_method
from raydet.settings import dump, load
from tests.helpers import tiny_config

SUPERVISED = {"name": "supervised", "burn_in_steps": 2}


def test_supervised_training_alone_takes_a_mask_rcnn():
    takes = {each.called() for each in METHODS if "mask_rcnn" in detectors_of(each)}
    assert takes == {"supervised"}


def test_a_method_whose_pseudo_labels_have_no_masks_refuses_a_mask_rcnn(tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        tiny_config(tmp_path / "run", model__detector="mask_rcnn")
    text = str(error.value)
    assert "model.detector=mask_rcnn: method.name=il_net is published, and defined, for faster_rcnn and" in text
    assert "method.name to one of supervised" in text


def test_a_mask_rcnn_reads_masks_and_its_configuration_says_so(tmp_path: Path):
    config = tiny_config(tmp_path / "run", model__detector="mask_rcnn", method=SUPERVISED)
    assert config.data.masks
    file = tmp_path / "run.yaml"
    file.write_text(dump(config))
    assert load(file) == config
    assert not tiny_config(tmp_path / "run", method=SUPERVISED).data.masks


@pytest.mark.parametrize(("detector", "masks"), [("mask_rcnn", False), ("faster_rcnn", True)])
def test_masks_are_read_by_a_mask_rcnn_and_by_no_other(tmp_path: Path, detector: str, masks: bool):
    with pytest.raises(ConfigError, match=f"data.masks={str(masks).lower()} with model.detector={detector}"):
        tiny_config(tmp_path / "run", model__detector=detector, data__masks=masks, method=SUPERVISED)


def test_settings_of_the_mask_head_are_refused_without_one():
    with pytest.raises(ValidationError, match="mask_head_convs does nothing with detector=faster_rcnn"):
        ModelConfig(mask_head_convs=2)
    assert ModelConfig(detector="mask_rcnn", mask_head_convs=2).mask_head_convs == 2


def test_the_mask_loss_has_the_weight_of_the_others(tmp_path: Path):
    config = tiny_config(tmp_path / "run", model__detector="mask_rcnn", method=SUPERVISED)
    assert build_method(config).loss_weights == {
        "sup/rpn_cls": 1.0,
        "sup/rpn_reg": 1.0,
        "sup/roi_cls": 1.0,
        "sup/roi_reg": 1.0,
        "sup/mask": 1.0,
    }
