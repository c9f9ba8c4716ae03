"""Images in which nothing was proposed: a run goes on with whole views, counts them and says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydet.metrics import read_metrics
from raydet.proposals.run import ProposalOptions, propose
from raydet.proposals.sources import read_file
from raydet.train.launch import launch
from tests.helpers import tiny_views


@pytest.mark.parametrize("number_without", [1, 4])
def test_images_that_are_their_own_box_are_counted_and_most_of_them_are_an_alarm(tmp_path: Path, number_without: int):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    known = [{"id": number, "file_name": f"{number}.png", "width": 50, "height": 40} for number in range(4)]
    # 20 x 20 of 50 x 40: sqrt(400 / 2000) = .45 of the image. Views cover .9 to 1 of it, so that it is in all of them.
    boxes = [{"image_id": number, "bbox": [15, 10, 20, 20]} for number in range(number_without, 4)]
    (tmp_path / "boxes.json").write_text(json.dumps({"images": known, "annotations": boxes}))
    source = read_file(tmp_path / "boxes.json")
    propose(ProposalOptions(images=str(images), out=tmp_path / "proposals", source=source, actors=0))
    data = {"data__images": str(images), "data__proposals": str(tmp_path / "proposals"), "data__val": None}
    config = tiny_views(
        tmp_path / "run",
        optim__steps=3,
        optim__labeled_batch=4,
        data__views__crop_area=(0.9, 1.0),
        method={"name": "soco", "alarm_after_steps": 1, "num_boxes": 2},
        **data,
    )
    run = launch(config).path
    lines = read_metrics(run / "metrics.jsonl")
    seen = {line["boxes/fallback"] for line in lines if line["kind"] == "step"}
    assert seen == {number_without / 4}
    alarms = [line for line in lines if "no proposal is in all views" in json.dumps(line)]
    assert bool(alarms) == (number_without == 4)
