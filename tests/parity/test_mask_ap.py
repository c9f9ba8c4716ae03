"""AP of masks against pycocotools itself, run as its own users run it: on files, with loadRes."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from raydet.config.box_data import DatasetConfig
from raydet.data.boxes.formats.detect import read_source
from raydet.data.boxes.index import DatasetIndex, write_index
from raydet.data.boxes.rules import usable
from raydet.data.problems import ProblemLog
from raydet.families.detection.coco import coco_metrics
from raydet.families.detection.judged_boxes import Detections
from tests.tiny_data import write_image

HEIGHT, WIDTH, IMAGES, CLASSES = 200, 240, 6, 3
NAMES = ("AP_mk", "AP50_mk", "AP75_mk", "APs_mk", "APm_mk", "APl_mk")


def polygon(rng: np.random.Generator, spread: float = 1.0) -> np.ndarray:
    """A star of 8 corners [8, 2], of any size, that may leave the image a little."""
    radius = rng.uniform(6, 90) * spread
    middle = rng.uniform((20, 20), (WIDTH - 20, HEIGHT - 20))
    around = np.arange(8) * np.pi / 4
    return middle + np.stack([np.cos(around), np.sin(around)], 1) * radius * rng.uniform(0.6, 1, (8, 1))


def annotation(number: int, image: int, category: int, corners: np.ndarray, crowd: int) -> dict[str, Any]:
    """One object: a polygon, or as crowd an uncompressed RLE; the box around it, cut to the image."""
    parts = [np.round(corners, 2).ravel().tolist()]
    rle = coco.merge(coco.frPyObjects(parts, HEIGHT, WIDTH))
    x, y, w, h = coco.toBbox(rle).tolist()
    plain = coco.decode(rle).ravel(order="F")
    ends = np.flatnonzero(np.diff(np.concatenate([[0], plain, [2]])))
    counts = np.diff(np.concatenate([[0], ends])).tolist()
    segmentation: Any = {"size": [HEIGHT, WIDTH], "counts": counts} if crowd else parts
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [x, y, w, h],
        "area": float(coco.area(rle)),
        "iscrowd": crowd,
        "segmentation": segmentation,
    }


def random_set(seed: int, folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A COCO file with its images, and detections: some near the truth, some anywhere, some of another class."""
    rng = np.random.default_rng(seed)
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image in range(1, IMAGES + 1):
        write_image(folder / f"{image}.png", WIDTH, HEIGHT, value=image)
        for _ in range(int(rng.integers(1, 6))):
            corners, category = polygon(rng), int(rng.integers(1, CLASSES + 1))
            truth.append(annotation(len(truth) + 1, image, category, corners, int(rng.random() < 0.15)))
            for _ in range(int(rng.integers(0, 4))):
                moved = corners + rng.normal(0, 5, 2) + rng.normal(0, 2, (8, 2))
                own = category if rng.random() < 0.8 else int(rng.integers(1, CLASSES + 1))
                found.append(detection(rng, image, own, moved))
        for _ in range(3):
            found.append(detection(rng, image, int(rng.integers(1, CLASSES + 1)), polygon(rng)))
    images = [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(1, IMAGES + 1)]
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
    file = folder / "truth.json"
    file.write_text(json.dumps({"images": images, "categories": categories, "annotations": truth}))
    return file, found


def detection(rng: np.random.Generator, image: int, category: int, corners: np.ndarray) -> dict[str, Any]:
    rle = coco.merge(coco.frPyObjects([corners.ravel().tolist()], HEIGHT, WIDTH))
    # float32, as a model's scores are
    score = float(np.float32(rng.random()))
    return {"image_id": image, "category_id": category, "segmentation": rle, "score": score}


def pycocotools_says(file: Path, found: list[dict[str, Any]]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        side = COCO(str(file))
        run = COCOeval(side, side.loadRes([{**each} for each in found]), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats[:6].tolist()


def index_of(file: Path) -> DatasetIndex:
    log = ProblemLog()
    table = usable(read_source(DatasetConfig(path=str(file)), log, masks=True), "error", log)
    assert not log.num_errors, log.problems
    write_index(file.with_suffix(".arrow"), table)
    return DatasetIndex.open(file.with_suffix(".arrow"))


def as_records(found: list[dict[str, Any]]) -> list[Detections]:
    records = []
    for image in range(1, IMAGES + 1):
        own = [each for each in found if each["image_id"] == image]
        boxes = np.array([coco.toBbox(each["segmentation"]) for each in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        records.append(
            Detections(
                str(image),
                torch.from_numpy(boxes).float(),
                torch.tensor([each["category_id"] - 1 for each in own], dtype=torch.int64),
                torch.tensor([each["score"] for each in own]),
                [each["segmentation"]["counts"] for each in own],
            )
        )
    return records


@pytest.mark.parametrize("seed", range(8))
def test_ap_of_masks_is_pycocotools_on_random_sets(seed: int, tmp_path: Path):
    file, found = random_set(seed, tmp_path)
    expected = pycocotools_says(file, found)
    result = coco_metrics(index_of(file), as_records(found))
    assert [getattr(result, name) for name in NAMES] == pytest.approx([None if v < 0 else v for v in expected])
    assert result.AP_mk is not None and 0.05 < result.AP_mk < 0.95
    assert result.score != result.AP_mk  # boxes are easier
    of_classes = [each.AP_mk for each in result.per_class.values() if each.AP_mk is not None]
    assert float(np.mean(of_classes)) == pytest.approx(result.AP_mk)


def test_perfect_masks_have_an_ap_of_one_and_half_masks_less(tmp_path: Path):
    file, _ = random_set(0, tmp_path)
    index = index_of(file)
    truth = [each for each in json.loads(file.read_text())["annotations"] if not each["iscrowd"]]
    perfect = [
        {
            "image_id": each["image_id"],
            "category_id": each["category_id"],
            "segmentation": coco.merge(coco.frPyObjects(each["segmentation"], HEIGHT, WIDTH)),
            "score": 0.9,
        }
        for each in truth
    ]
    result = coco_metrics(index, as_records(perfect))
    assert result.AP_mk == pytest.approx(1.0) and result.score == pytest.approx(1.0)
    empty = coco.encode(np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F"))
    records = [
        Detections(each.image_id, each.boxes, each.classes, each.scores, [empty["counts"]] * len(each.scores))
        for each in as_records(perfect)
    ]
    result = coco_metrics(index, records)
    assert result.AP_mk == 0.0 and result.score == pytest.approx(1.0)  # the boxes are as good as before


def test_an_object_whose_mask_nobody_knows_is_neither_to_be_found_nor_a_mistake(tmp_path: Path):
    file, _ = random_set(1, tmp_path)
    content = json.loads(file.read_text())
    content["annotations"] = content["annotations"][:2]
    for each in content["annotations"]:
        each["iscrowd"], each["image_id"], each["category_id"] = 0, 1, 1
    polygons = [polygon(np.random.default_rng(k)) for k in range(2)]
    content["annotations"] = [annotation(k + 1, 1, 1, corners, 0) for k, corners in enumerate(polygons)]
    del content["annotations"][1]["segmentation"]
    file.write_text(json.dumps(content))
    log = ProblemLog()
    table = usable(read_source(DatasetConfig(path=str(file)), log, masks=True), "drop", log)
    write_index(tmp_path / "x.arrow", table)
    both = [
        {
            "image_id": 1,
            "category_id": 1,
            "segmentation": coco.merge(coco.frPyObjects([corners.ravel().tolist()], HEIGHT, WIDTH)),
            "score": score,
        }
        for corners, score in zip(polygons, (0.5, 0.9), strict=True)
    ]
    result = coco_metrics(DatasetIndex.open(tmp_path / "x.arrow"), as_records(both))
    assert result.AP_mk == pytest.approx(1.0)  # the better scored one lies in the box of the unknown mask


def test_boxes_alone_have_no_figures_of_masks(tmp_path: Path):
    file, found = random_set(0, tmp_path)
    bare = [Detections(each.image_id, each.boxes, each.classes, each.scores) for each in as_records(found)]
    result = coco_metrics(index_of(file), bare)
    assert result.AP is not None and all(getattr(result, name) is None for name in NAMES)
    assert "AP_mk" not in result.as_text()
    assert "AP_mk" in coco_metrics(index_of(file), as_records(found)).as_text()


def test_detections_of_which_some_have_no_mask_are_refused(tmp_path: Path):
    file, found = random_set(0, tmp_path)
    records = as_records(found)
    short = [Detections(r.image_id, r.boxes, r.classes, r.scores, (r.masks or [])[:-1]) for r in records]
    with pytest.raises(ValueError, match="every detection wants one"):
        coco_metrics(index_of(file), short)
