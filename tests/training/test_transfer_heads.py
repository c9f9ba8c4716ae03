"""A box head of one detector in another: as it is in a Mask R-CNN, in every stage of a cascade."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from raydet.config.detector import ModelConfig
from raydet.errors import CheckpointError
from raydet.families.detection.transfer import start
from raydet.vision.detector import Detector

SETTINGS: dict[str, Any] = {
    "backbone": "small_gn",
    "small_channels": (8, 8, 8, 8, 8),
    "fpn_channels": 8,
    "box_head_dim": 8,
    "anchor_sizes": ((12.0,), (24.0,), (48.0,)),
}


def detector(seed: int, **changes: Any) -> Detector:
    torch.manual_seed(seed)
    return Detector(ModelConfig.model_validate(SETTINGS | changes), 3)


def file_of(model: Detector, folder: Path) -> str:
    file = folder / "source.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)
    return str(file)


def started(seed: int, source: str, **changes: Any) -> tuple[Detector, list[str]]:
    model = detector(seed, init_from=source, **changes)
    return model, start(model, model.config)


def test_every_stage_of_a_cascade_starts_from_the_one_box_head_there_is(tmp_path: Path):
    one = detector(1)
    model, lines = started(2, file_of(one, tmp_path), detector="cascade_rcnn")
    assert "  box_head: 12 tensors taken" in lines  # weight and bias of two layers, three times
    for head in model.heads:
        for name, value in one.roi_heads.box_head.state_dict().items():
            assert torch.equal(head.box_head.state_dict()[name], value), name
        assert not torch.equal(head.box_predictor.cls_score.weight, one.roi_heads.box_predictor.cls_score.weight)
    assert torch.equal(model.rpn.head.cls_logits.weight, one.rpn.head.cls_logits.weight)


def test_a_mask_rcnn_takes_a_box_head_and_its_mask_head_is_fresh(tmp_path: Path):
    one = detector(1)
    model, lines = started(2, file_of(one, tmp_path), detector="mask_rcnn", mask_head_channels=4)
    assert "  box_head: 4 tensors taken" in lines
    assert any("roi_heads.mask_head" in line and "fresh" in line for line in lines)
    assert torch.equal(model.roi_heads.box_head.fc6.weight, one.roi_heads.box_head.fc6.weight)


def test_a_cascade_goes_into_a_cascade_stage_by_stage_and_nowhere_else(tmp_path: Path):
    three = detector(1, detector="cascade_rcnn")
    source = file_of(three, tmp_path)
    model, _ = started(2, source, detector="cascade_rcnn")
    for mine, other in zip(model.heads, three.heads, strict=True):
        assert torch.equal(mine.box_head.fc6.weight, other.box_head.fc6.weight)
    with pytest.raises(CheckpointError, match=r"its box_head is of another network: .*stages of a cascade"):
        started(2, source)
