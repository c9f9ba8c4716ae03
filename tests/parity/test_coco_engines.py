"""hotcoco against pycocotools, the reference, on random cases with everything that is awkward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raydet.families.detection.coco import Detections, coco_metrics
from tests.unit.test_evaluate import FakeIndex

pytest.importorskip("hotcoco", reason="the fast engine is not installed (pip install 'raydet[fast]')")


def random_boxes(rng, number):
    corner = rng.uniform(0, 150, (number, 2))
    side = np.exp(rng.uniform(np.log(0.5), np.log(150), (number, 2)))  # all three area ranges
    side[rng.random(number) < 0.05] = 0  # zero area
    boxes = np.concatenate([corner, corner + side], axis=1)
    return np.round(boxes) if rng.random() < 0.5 else boxes  # whole pixels make equal IoUs


def random_case(seed):
    rng = np.random.default_rng(seed)
    images, detections = [], []
    for i in range(int(rng.integers(0, 6))):
        number = int(rng.integers(0, 12))
        boxes, labels, crowd = random_boxes(rng, number), rng.integers(0, 2, number), rng.random(number) < 0.15
        images.append(list(zip(boxes.tolist(), labels.tolist(), crowd.tolist(), strict=True)))
        if rng.random() < 0.2:
            continue  # no record: no detections
        extra = random_boxes(rng, int(rng.choice([0, 3, 30, 260])))  # more than 100 of one class
        near = boxes + rng.normal(0, 4, boxes.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2])
        said = np.concatenate([near, boxes, extra])
        scores = rng.random(len(said)).round(1 if rng.random() < 0.5 else 6)  # one decimal: many ties
        detections.append(
            Detections(
                f"image-{i}",
                torch.tensor(said, dtype=torch.float32),
                torch.tensor(rng.integers(0, 2, len(said))),
                torch.tensor(scores, dtype=torch.float32),
            )
        )
    return FakeIndex(*images), detections


@pytest.mark.parametrize("block", range(5))
def test_both_engines_give_the_same_figures(block):
    for seed in range(20 * block, 20 * (block + 1)):
        index, detections = random_case(seed)
        fast, reference = (coco_metrics(index, detections, engine=e).as_json() for e in ("hotcoco", "pycocotools"))
        for name in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
            assert fast[name] == pytest.approx(reference[name], abs=1e-9), f"seed {seed}: {name}"
        for name, each in reference["per_class"].items():
            assert fast["per_class"][name] == pytest.approx(each, abs=1e-9), f"seed {seed}: class {name}"
        assert (fast["boxes"], fast["detections"]) == (reference["boxes"], reference["detections"])


def test_the_order_of_the_records_changes_nothing():
    index, detections = random_case(7)
    assert len(detections) > 1
    for engine in ("hotcoco", "pycocotools"):
        assert coco_metrics(index, detections, engine=engine) == coco_metrics(index, detections[::-1], engine=engine)
