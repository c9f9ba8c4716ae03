"""Runs of Mask R-CNN, from data with masks to what is made of the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from safetensors.torch import load_file
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from raydet.config.run import RunConfig
from raydet.errors import DataError, UserError
from raydet.label_files.run import LabelOptions, label
from raydet.metrics import read_metrics
from raydet.train.checkpoint import open_checkpoint
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder
from raydet.train.saved import evaluate_saved, export
from raydet.vision.backbones import build_backbone
from tests.helpers import tiny_config
from tests.tiny_data import write_image

MASKS = {"model__detector": "mask_rcnn", "model__mask_head_channels": 8, "model__mask_head_convs": 2}
SUPERVISED = {"name": "supervised", "burn_in_steps": 8}


def of(run: Path, **changes: Any) -> RunConfig:
    return tiny_config(run, **MASKS, method=SUPERVISED, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return launch(of(tmp_path_factory.mktemp("masks") / "run"))


def test_a_resumed_run_is_the_straight_one_bit_for_bit(run: RunFolder, tmp_path: Path):
    launch(of(tmp_path / "halves", run__stop_at=5))
    halves = launch(of(tmp_path / "halves"), resume=True)
    for part in ("student", "optimizer"):
        one, other = (open_checkpoint(each.checkpoints / "step_00000008").tensors(part) for each in (run, halves))
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert any("mask_head" in name for name in one)


def test_the_mask_loss_is_logged_and_falls_from_that_of_a_coin(run: RunFolder):
    losses = [line["loss/sup/mask/raw"] for line in read_metrics(run.metrics) if line["kind"] == "step"]
    assert len(losses) == 8
    assert losses[0] == pytest.approx(0.6931, abs=0.01)  # ln 2: the head begins undecided
    assert losses[-1] < losses[0]


def test_evaluation_has_the_figures_of_masks_and_they_are_those_of_the_log(run: RunFolder):
    result = evaluate_saved(run.path, data=None, split="val", role=None)
    assert result.AP_mk is not None and "AP_mk" in result.as_text()
    (line,) = (each for each in read_metrics(run.metrics) if each["kind"] == "eval")
    assert line["AP_mk"] == pytest.approx(result.AP_mk) and line["AP"] == pytest.approx(result.score)


def test_the_exported_file_loads_into_plain_torchvision(run: RunFolder, tmp_path: Path):
    export(run.path, tmp_path / "model.safetensors")
    config = run.load_config().model
    levels = ["0", "1", "2"]
    theirs = MaskRCNN(
        build_backbone(config),
        rpn_anchor_generator=AnchorGenerator(config.anchor_sizes, (config.anchor_ratios,) * 3),
        rpn_head=RPNHead(16, 3),
        box_roi_pool=MultiScaleRoIAlign(levels, 7, 2),
        box_head=TwoMLPHead(16 * 49, 32),
        box_predictor=FastRCNNPredictor(32, 7),
        mask_roi_pool=MultiScaleRoIAlign(levels, 14, 2),
        mask_head=MaskRCNNHeads(16, (8, 8), 1),
        mask_predictor=MaskRCNNPredictor(8, 8, 7),
    )
    theirs.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)


def test_an_onnx_file_without_masks_is_not_written(run: RunFolder, tmp_path: Path):
    with pytest.raises(UserError, match="an ONNX file of model.detector=mask_rcnn would have boxes and no masks"):
        export(run.path, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_labels_of_new_images_have_masks_in_their_boxes(run: RunFolder, tmp_path: Path):
    images = next((run.path / "data").rglob("images"))
    options = LabelOptions(
        checkpoint=run.path, images=str(images), out=tmp_path / "labels", score_threshold=0.1, actors=0
    )
    counts = label(options)
    content = json.loads((tmp_path / "labels" / "coco.json").read_text())
    assert counts.boxes == len(content["annotations"]) > 10
    sizes = {each["id"]: [each["height"], each["width"]] for each in content["images"]}
    covered = 0
    for one in content["annotations"]:
        rle = one["segmentation"]
        assert rle["size"] == sizes[one["image_id"]]
        rows, columns = np.nonzero(coco.decode(rle))
        assert one["area"] == len(rows)
        if len(rows):
            covered += 1
            x, y, w, h = one["bbox"]
            assert x - 1 <= columns.min() and columns.max() + 1 <= x + w + 1
            assert y - 1 <= rows.min() and rows.max() + 1 <= y + h + 1
    assert covered > 10


def test_data_without_masks_is_refused_before_anything_is_trained(tmp_path: Path):
    folder = tmp_path / "yolo"
    write_image(folder / "images" / "a.jpg")
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (folder / "data.yaml").write_text("train: images\nnames: [cat]\n")
    with pytest.raises(DataError, match="masks are wanted of the labeled images, and format yolo has none"):
        launch(of(tmp_path / "run", data__labeled={"path": str(folder / "data.yaml")}, data__labeled_count=None))
