"""The norms of what `model.init_from` takes: which are frozen, which train, and where they may not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.ops import FrozenBatchNorm2d

from raydet.config.detector import ModelConfig
from raydet.config.transfer import PARTS
from raydet.errors import ConfigError
from raydet.families.detection.transfer import part_of
from raydet.vision.detector import Detector
from tests.helpers import tiny_config

SUPERVISED = {"name": "supervised", "burn_in_steps": 2}


def test_norms_of_a_backbone_that_is_taken_are_frozen_unless_they_are_to_train():
    def norms(**changes) -> set[type]:
        config = ModelConfig(backbone="resnet18_fpn", fpn_channels=16, fpn_norm="batch", **changes)
        return {type(m) for m in Detector(config, 2).backbone.modules() if "BatchNorm" in type(m).__name__}

    assert norms(init_from="a") == {FrozenBatchNorm2d}
    assert norms(init_from="a", init_norms="trained") == {torch.nn.BatchNorm2d}
    assert norms(weights="none") == {torch.nn.BatchNorm2d}
    # The backbone's own are frozen only where it is taken.
    assert norms(weights="none", init_from="a", init_parts=["rpn"]) == {torch.nn.BatchNorm2d}


def test_with_the_backbones_norms_frozen_those_of_the_pyramid_and_the_box_head_train():
    model = ModelConfig(
        backbone="resnet18_fpn", fpn_norm="batch", box_head="conv4_fc1", init_from="a", init_norms="backbone_frozen"
    )
    kinds = {name: type(m) for name, m in Detector(model, 2).named_modules() if "BatchNorm" in type(m).__name__}
    of = {part: {kind for name, kind in kinds.items() if part_of(f"{name}.") == part} for part in PARTS}
    # A ResNet's frozen norms are folded into its convolutions.
    assert of == {"backbone": set(), "fpn": {torch.nn.BatchNorm2d}, "rpn": set(), "box_head": {torch.nn.BatchNorm2d}}


def test_statistics_that_would_differ_between_workers_are_refused(tmp_path: Path):
    keys = {"model__fpn_norm": "batch", "cluster__backend": "ray", "cluster__workers": 2, "method": SUPERVISED}
    with pytest.raises(
        ConfigError, match="model.fpn_norm=batch trains its statistics, which would differ between the 2"
    ):
        tiny_config(tmp_path / "run", **keys)
    kept = tiny_config(tmp_path / "run", **keys, model__init_from="a")
    assert kept.model.keeps_norms("fpn")
    with pytest.raises(ConfigError, match="model.fpn_norm=batch trains its statistics"):
        tiny_config(tmp_path / "run", **keys, model__init_from="a", model__init_norms="backbone_frozen")
    fresh_head = {"model__init_from": "a", "model__init_parts": ["fpn"], "model__box_head": "conv4_fc1"}
    with pytest.raises(ConfigError, match="model.fpn_norm=batch trains its statistics"):  # the head's have no source
        tiny_config(tmp_path / "run", **keys, **fresh_head)
