"""Runs on an LVIS file: background in the losses, and the figures of rare, common and frequent classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raydet.config.box_data import ShapesConfig
from raydet.data.boxes.synthetic import CLASS_NAMES, materialise
from raydet.families.detection.config import DetectionConfig
from raydet.metrics import read_metrics
from raydet.train.launch import launch
from tests.helpers import tiny_config, tiny_soft
from tests.integration.runs import losses

FREQUENCY = dict(zip(CLASS_NAMES, "ffccrr", strict=True))  # circle, square; triangle, ellipse; hexagon, star


def lvis_shapes(folder: Path, seed: int) -> str:
    """A JSON of 12 generated images, as LVIS writes it: circles were looked for everywhere, and what has a box."""
    file = materialise(ShapesConfig(num_images=12, seed=seed, height=64, width=96, max_objects=3), folder)
    content = json.loads(file.read_text())
    circle = next(each["id"] for each in content["categories"] if each["name"] == "circle")
    for each in content["categories"]:
        each["frequency"] = FREQUENCY[each["name"]]
    for image in content["images"]:
        there = {each["category_id"] for each in content["annotations"] if each["image_id"] == image["id"]}
        image |= {"neg_category_ids": sorted({circle} - there), "not_exhaustive_category_ids": []}
    file.write_text(json.dumps(content))
    return str(file)


def run_of(method: str, run: Path, sets: Path, **change: Any) -> DetectionConfig:
    """Two steps and an evaluation."""
    made = {"supervised": tiny_config, "soft_teacher": tiny_soft}[method]
    settings: dict[str, Any] = {"name": "supervised"} if method == "supervised" else {}
    data = {"data__labeled": lvis_shapes(sets, 0), "data__val": lvis_shapes(sets, 1), "data__labeled_count": 6}
    return made(run, method=settings, optim__steps=2, **data, **change)


@pytest.mark.parametrize("method", ["supervised", "soft_teacher"])
def test_background_counts_against_the_classes_that_were_looked_for_alone(method: str, tmp_path: Path):
    run = launch(run_of(method, tmp_path / "run", tmp_path)).path
    all_of_them = launch(run_of(method, tmp_path / "other", tmp_path, data__federated=False)).path
    mine, theirs = losses(run)[0], losses(all_of_them)[0]
    # A softmax over fewer classes finds background more probable.
    assert 0 < mine["loss/sup/roi_cls/raw"] < theirs["loss/sup/roi_cls/raw"]
    same = {"loss/sup/rpn_cls/raw", "loss/sup/rpn_reg/raw", "loss/sup/roi_reg/raw"}
    assert {name for name in mine if mine[name] == theirs[name]} - {"step"} >= same
    for each in (run, all_of_them):  # how to judge is said by the data, not by `data.federated`
        judged = [line for line in read_metrics(each / "metrics.jsonl") if line["kind"] == "eval"]
        assert judged and all(0 <= line[name] <= 1 for line in judged for name in ("APr", "APc", "APf"))
