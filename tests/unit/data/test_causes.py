"""An error says its cause: what was noticed before it, and what it is about, come first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raydet.config.box_data import DataConfig, DatasetConfig
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.families.classification.data import IMAGES
from raydet.families.detection.data import BOXES
from tests.tiny_data import coco_content, write_coco, write_image
from tests.tiny_images import data_config, write_class_folders, write_parquet


def other_set(folder: Path) -> Path:
    file = write_coco(folder)
    for number, name in enumerate("ab"):
        write_image(folder / f"{name}.jpg", value=50 + number)
    return file


def empty_set(folder: Path) -> Path:
    return write_coco(folder, {**coco_content(), "annotations": []})


def test_warnings_survive_the_error_that_follows() -> None:
    log = ProblemLog()
    log.warn("other-files", "photos", "", "9 files with other endings were passed over")
    for number in range(4):
        log.warn("box-tiny", "x.json", f"annotation id {number}", "below 1 pixel")
    log.error("no-boxes", "photos", "", "the labeled set has no usable box")
    with pytest.raises(DataError) as caught:
        log.raise_errors("title")
    assert str(caught.value).splitlines() == [
        "photos: the labeled set has no usable box",
        "  warnings that may say why:",
        "  [other-files] photos: 9 files with other endings were passed over",
        "  [box-tiny] x.json, annotation id 0: below 1 pixel",
        "  [box-tiny] x.json, annotation id 1: below 1 pixel",
        "  [box-tiny] ... and 2 more",
    ]


def test_warnings_survive_a_set_that_cannot_be_read(tmp_path: Path) -> None:
    write_image(tmp_path / "more" / "x.jpg")
    (tmp_path / "more" / "film.gif").write_text("")
    config = {"labeled": str(write_coco(tmp_path / "data")), "unlabeled": str(tmp_path / "more"), "val": "none.json"}
    with pytest.raises(DataError, match=r"data.val: none.json: no such file") as caught:
        BOXES.prepare(DataConfig.model_validate(config), tmp_path / "run")
    assert "1 file with another ending was passed over" in str(caught.value)


def test_a_labelled_set_without_boxes_is_told_before_classes_are_compared(tmp_path: Path) -> None:
    content = {**coco_content(), "annotations": [], "categories": []}
    config = DataConfig.model_validate(
        {"labeled": str(write_coco(tmp_path / "data", content)), "val": str(other_set(tmp_path / "val"))}
    )
    with pytest.raises(
        DataError, match="the labeled set has no usable box: 2 plain images, and no annotations were read"
    ):
        BOXES.prepare(config, tmp_path / "run")
    report = BOXES.check(config)
    assert {code for severity, code in report.counts if severity == "error"} == {"no-boxes"}
    report = BOXES.check(DataConfig.model_validate({"labeled": str(empty_set(tmp_path / "data")), "val": config.val}))
    assert {code for severity, code in report.counts if severity == "error"} == {"no-boxes"}
    assert "2 images and 2 classes, and not one box" in str(report.problems[-1])


def test_a_model_is_told_that_a_set_has_no_boxes_and_not_that_classes_are_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the given set has no usable box"):
        file = empty_set(tmp_path / "data")
        BOXES.prepare_one(DatasetConfig(path=str(file)), tmp_path / "one", class_names=("horse",))


def test_a_seed_list_without_images_says_so(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "data")
    (tmp_path / "seeds.txt").write_text(json.dumps({"10.0": {"1": []}, "50.0": {"1": [1]}}))
    config = {"labeled": str(file), "labeled_ids": f"{tmp_path}/seeds.txt#10/1"}
    with pytest.raises(DataError, match=r"seeds.txt: 10 percent, seed 1 lists no image; take a larger percentage"):
        BOXES.prepare(DataConfig.model_validate(config), tmp_path / "run")
    config["labeled_ids"] = f"{tmp_path}/seeds.txt#50/1"  # the advice
    assert BOXES.prepare(DataConfig.model_validate(config), tmp_path / "run").labeled.ids() == ["2"]


def test_a_list_of_images_without_boxes_is_what_is_wrong_and_not_the_annotations(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"] = content["annotations"][:2]  # of image 1
    (tmp_path / "ids.txt").write_text("2\n")
    config = DataConfig.model_validate(
        {"labeled": str(write_coco(tmp_path / "data", content)), "labeled_ids": str(tmp_path / "ids.txt")}
    )
    message = "nothing is known of 1 image that data.labeled_ids chooses"
    with pytest.raises(DataError, match=message):
        BOXES.prepare(config, tmp_path / "run")
    report = BOXES.check(config)
    assert ("error", "split-barren") in report.counts and ("error", "no-boxes") not in report.counts


def test_a_classifier_without_labels_is_told_so_and_nothing_of_classes(tmp_path: Path) -> None:
    bare = write_parquet(tmp_path / "a.parquet", None, names=None)
    val = write_class_folders(tmp_path / "val", {"cat": 1, "dog": 1})
    with pytest.raises(DataError, match="no image has a label"):
        IMAGES.prepare(data_config(bare, val=val), tmp_path / "run")
    report = IMAGES.check(data_config(bare, val=val), decode_images=False)
    assert {code for severity, code in report.counts if severity == "error"} == {"no-labels"}
