"""All engines against pycocotools used by itself, from JSON files, on random cases with everything that is awkward."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from raydet.families.detection.coco import coco_metrics
from raydet.families.detection.judged_boxes import Detections
from tests.unit.test_evaluate import FakeIndex

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
needs_hotcoco = pytest.mark.skipif(
    importlib.util.find_spec("hotcoco") is None,
    reason="the fast engine is not installed (pip install 'raydet[fast]')",
)
engines = pytest.mark.parametrize("engine", ["pycocotools", "numpy", pytest.param("hotcoco", marks=needs_hotcoco)])

fast_engines = pytest.mark.parametrize("engine", ["numpy", pytest.param("hotcoco", marks=needs_hotcoco)])


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


def by_pycocotools(index, detections, folder):
    """What pycocotools prints for an annotation file and a result file, and AP and AP50 of each class.

    Its -1, no box of that kind, is None here. No line of raydet's takes part.
    """
    images = [{"id": i, "width": 200, "height": 200} for i in range(len(index.images))]
    categories = [{"id": k, "name": name} for k, name in enumerate(index.class_names)]
    annotations, results = [], []
    for i, image in enumerate(index.images):
        for (x1, y1, x2, y2), label, crowd in image:
            sides = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": int(crowd)}
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": int(label), **sides})
    for each in detections:
        for (x1, y1, x2, y2), label, score in zip(each.boxes.tolist(), each.classes, each.scores, strict=True):
            place = {"image_id": int(each.image_id.removeprefix("image-")), "category_id": int(label)}
            results.append({**place, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(score)})
    if not results:  # its reader of results refuses an empty file
        has_boxes = any(not crowd for image in index.images for *_, crowd in image)
        return None, has_boxes
    (folder / "truth.json").write_text(
        json.dumps({"images": images, "categories": categories, "annotations": annotations})
    )
    (folder / "found.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))
        found = truth.loadRes(str(folder / "found.json"))

        def stats(classes):
            run = COCOeval(truth, found, "bbox")
            run.params.catIds = classes
            run.evaluate()
            run.accumulate()
            run.summarize()
            return [None if value == -1 else float(value) for value in run.stats[:6]]

        whole = stats([0, 1])
        return whole, [stats([k])[:2] for k in (0, 1)]


@engines
@pytest.mark.parametrize("block", range(5))
def test_figures_are_those_of_pycocotools_by_itself(block, engine, tmp_path):
    compared = 0
    for seed in range(20 * block, 20 * (block + 1)):
        index, detections = random_case(seed)
        ours = coco_metrics(index, detections, engine=engine).as_json()
        expected, of_classes = by_pycocotools(index, detections, tmp_path)
        if expected is None:
            assert ours["AP"] == (0.0 if of_classes else None), f"seed {seed}: nothing was found"
            continue
        compared += 1
        for name, value in zip(FIGURES, expected, strict=True):
            assert ours[name] == (None if value is None else pytest.approx(value, abs=1e-9)), f"seed {seed}: {name}"
        for name, values in zip(index.class_names, of_classes, strict=True):
            for figure, value in zip(("AP", "AP50"), values, strict=True):
                wanted = None if value is None else pytest.approx(value, abs=1e-9)
                assert ours["per_class"][name][figure] == wanted, f"seed {seed}: {figure} of {name}"
    assert compared >= 10


@fast_engines
@pytest.mark.parametrize("block", range(5))
def test_the_others_give_the_figures_of_the_reference(block, engine):
    for seed in range(20 * block, 20 * (block + 1)):
        index, detections = random_case(seed)
        fast, reference = (coco_metrics(index, detections, engine=e).as_json() for e in (engine, "pycocotools"))
        for name in FIGURES:
            assert fast[name] == pytest.approx(reference[name], abs=1e-9), f"seed {seed}: {name}"
        for name, each in reference["per_class"].items():
            assert fast["per_class"][name] == pytest.approx(each, abs=1e-9), f"seed {seed}: class {name}"
        assert (fast["boxes"], fast["detections"]) == (reference["boxes"], reference["detections"])


@engines
def test_the_order_of_the_records_changes_nothing(engine):
    index, detections = random_case(7)
    assert len(detections) > 1
    assert coco_metrics(index, detections, engine=engine) == coco_metrics(index, detections[::-1], engine=engine)
