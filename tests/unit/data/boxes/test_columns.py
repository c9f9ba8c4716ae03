"""What a column or a field means follows from what is said of it: key points, corners, rotation, crowd, parents."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydet.config.box_data import DataConfig, DatasetConfig
from raydet.data.boxes.fix import fix_dataset
from raydet.data.boxes.turned import box_around
from raydet.errors import DataError
from raydet.families.detection.data import BOXES
from tests.tiny_data import coco_content, codes, read_table, write_coco
from tests.unit.data.boxes.test_voc import BOX, write_voc
from tests.unit.data.boxes.test_yolo import write_yolo

POSE = "train: images/train\nnames: [cat, dog]\nkpt_shape: {}\n"


@pytest.mark.parametrize(
    ("shape", "row"),
    [
        ("[2, 2]", "1 0.5 0.5 0.2 0.5 0.45 0.4 0.55 0.6"),
        ("[1, 3]", "1 0.5 0.5 0.2 0.5 0.45 0.4 2"),  # the third number: can it be seen
        ("[2, 3]", "1 0.5 0.5 0.2 0.5 0 0 0 0.55 0.6 2"),
        ("[2, 2]", "1 0.5 0.5 0.2 0.5"),
    ],
)
def test_of_rows_with_key_points_the_box_is_read(tmp_path: Path, shape: str, row: str) -> None:
    table, log = read_table(write_yolo(tmp_path, row, POSE.format(shape)))
    assert not log.problems
    assert table.boxes.tolist() == [[40, 20, 60, 60]]  # centre (50, 40), 20 x 40 pixels of 100 x 80


def test_rows_that_do_not_fit_the_key_points_and_odd_shapes_are_refused(tmp_path: Path) -> None:
    _, log = read_table(write_yolo(tmp_path, "1 0.4 0.25 0.6 0.25 0.5 0.75", POSE.format("[2, 2]")))
    assert codes(log) == ["label-line"] and "kpt_shape calls for 5, or 9" in str(log.problems[0])
    for shape in ("[2]", "2", "[0, 2]", "[2, 4]", "[2, x]", "[2, true]"):
        with pytest.raises(DataError, match=r"kpt_shape must be \[number of points, 2 or 3\]"):
            read_table(write_yolo(tmp_path, yaml=POSE.format(shape)))


def test_key_points_that_nobody_announced_are_asked_for(tmp_path: Path) -> None:
    table, log = read_table(write_yolo(tmp_path, "1 0.5 0.5 0.2 0.5 0.45 0.4 0.55 0.6"), subset="train")
    assert codes(log, "warning") == ["label-polygons"] and "say `kpt_shape` in the data.yaml" in str(log.problems[0])
    _, log = read_table(write_yolo(tmp_path, "1 0.5 0.5 0.2 0.5 0.45 0.4 2"), subset="train")
    assert codes(log) == ["label-line"] and "8 columns: key points need `kpt_shape`" in str(log.problems[0])


def test_turned_boxes_of_four_corners_are_called_so_and_upright_ones_are_boxes(tmp_path: Path) -> None:
    # a square on its corner: 50, 40 +- 20 pixels of 100 x 80
    table, log = read_table(write_yolo(tmp_path, "1 0.5 0.25 0.7 0.5 0.5 0.75 0.3 0.5"), subset="train")
    assert codes(log) == [] and codes(log, "warning") == ["box-turned"]
    assert "1 row is a turned box (four corners): the upright boxes around turned ones are used" in str(log.problems[0])
    assert table.boxes.tolist() == [[30, 20, 70, 60]]
    _, log = read_table(write_yolo(tmp_path, "1 0.5 0.5 0.2 0.5 0.78"), subset="train")
    assert "a turned box with its angle" in str(log.problems[0])
    _, log = read_table(write_yolo(tmp_path, "10 10 20 10 20 20 10 20 plane 0"), subset="train")
    assert "a DOTA row" in str(log.problems[0])


# --- rotation ---------------------------------------------------------------------------------------------------------


def test_the_box_around_a_turned_one_by_hand() -> None:
    assert box_around(10, 20, 50, 40, 90) == pytest.approx((20, 10, 40, 50))  # 40 x 20 about (30, 30) becomes 20 x 40
    half = (40 + 20) / math.sqrt(2) / 2  # at 45 degrees both sides are (w + h) / sqrt 2
    assert box_around(10, 20, 50, 40, 45) == pytest.approx((30 - half, 30 - half, 30 + half, 30 + half))


@given(st.floats(1, 50), st.floats(1, 50), st.floats(-720, 720))
def test_it_holds_all_four_turned_corners(width: float, height: float, degrees: float) -> None:
    x1, y1, x2, y2 = box_around(-width / 2, -height / 2, width / 2, height / 2, degrees)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [
        (x * cosine - y * sine, x * sine + y * cosine)
        for x in (-width / 2, width / 2)
        for y in (-height / 2, height / 2)
    ]
    assert max(x for x, _ in corners) == pytest.approx(x2) and min(x for x, _ in corners) == pytest.approx(x1)
    assert max(y for _, y in corners) == pytest.approx(y2) and min(y for _, y in corners) == pytest.approx(y1)


def test_rotation_of_coco_boxes_is_counted_and_used(tmp_path: Path) -> None:
    content = coco_content()
    for entry, degrees in zip(content["annotations"], (90.0, 180.0, 0.0), strict=True):
        entry["attributes"] = {"occluded": False, "rotation": degrees}
    table, log = read_table(write_coco(tmp_path, content))
    assert codes(log, "warning") == ["box-turned"] and "1 box is turned" in str(log.problems[0])
    assert table.boxes[0].tolist() == [5, 25, 45, 55]  # 30 x 40 about (25, 40) becomes 40 x 30
    assert table.boxes[1:].tolist() == [[0, 0, 50, 60], [5.5, 6.5, 15.5, 16.5]]


def test_an_angle_of_unknown_meaning_is_told_with_the_count(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"][0]["rotation"] = 30
    content["annotations"][1]["angle"] = 12.5
    table, log = read_table(write_coco(tmp_path, content))
    assert codes(log, "warning") == ["box-angle"] and "2 annotations have an angle" in str(log.problems[0])
    assert table.boxes[0].tolist() == [10, 20, 40, 60]


@pytest.mark.parametrize(
    "turned",
    [
        f"<object><name>dog</name>{BOX}<attributes><attribute><name>rotation</name><value>90.0</value></attribute>"
        "</attributes></object>",
        "<object><name>dog</name><robndbox><cx>25</cx><cy>40</cy><w>30</w><h>40</h><angle>1.5707963</angle></robndbox>"
        "</object>",
    ],
)  # fmt: skip
def test_rotation_of_voc_boxes_is_counted_and_used(tmp_path: Path, turned: str) -> None:
    table, log = read_table(write_voc(tmp_path, turned))
    assert codes(log) == [] and codes(log, "warning") == ["box-turned"]
    assert table.boxes[0].tolist() == pytest.approx([5, 25, 45, 55], abs=1e-3)


# --- crowd ------------------------------------------------------------------------------------------------------------


def test_boxes_that_are_all_or_mostly_crowd_are_told_with_the_count(tmp_path: Path) -> None:
    content = coco_content()
    for entry in content["annotations"][:2]:
        entry["iscrowd"] = 1
    file = write_coco(tmp_path, content)
    report = BOXES.check_one(DatasetConfig(path=str(file)))
    assert report.counts == {("warning", "crowd-most"): 1}
    assert "2 of 3 boxes are crowd" in str(report.problems[0]) and "write 0" in str(report.problems[0])
    data = BOXES.prepare(DataConfig(labeled=DatasetConfig(path=str(file))), tmp_path / "run")
    assert any("2 of 3 boxes are crowd" in warning for warning in data.warnings)
    content["annotations"][2]["iscrowd"] = 1
    file = write_coco(tmp_path, content)
    with pytest.raises(DataError, match=r"every box \(3\) is crowd .*write 0 where they are single objects"):
        BOXES.prepare(DataConfig(labeled=DatasetConfig(path=str(file))), tmp_path / "run")
    content["annotations"][0]["iscrowd"] = content["annotations"][1]["iscrowd"] = 0  # one of three is common
    assert BOXES.check_one(DatasetConfig(path=str(write_coco(tmp_path, content)))).counts == {}


# --- parents ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parent", ["animals", "dog"])
def test_a_parent_without_boxes_is_left_out_with_a_word(tmp_path: Path, parent: str) -> None:
    content = coco_content()
    content["categories"] = [
        {"id": 0, "name": parent, "supercategory": "none"},
        {"id": 3, "name": "cat", "supercategory": parent},
        {"id": 7, "name": "dog", "supercategory": parent},
    ]
    file = write_coco(tmp_path, content)
    table, log = read_table(file)
    assert table.class_names == ("cat", "dog") and codes(log) == [] and codes(log, "warning") == ["category-parent"]
    result = fix_dataset(DatasetConfig(path=str(file)), "drop", tmp_path / "fixed.json")
    assert not read_table(result.file, images=str(result.images))[1].problems
    content["annotations"].append({**content["annotations"][0], "id": 9, "category_id": 0, "bbox": [1, 1, 9, 9]})
    _, log = read_table(write_coco(tmp_path, content))  # with a box it is a class
    assert codes(log) == (["category-name-twice"] if parent == "dog" else []) and codes(log, "warning") == []


def test_a_class_that_is_its_own_supercategory_is_no_parent(tmp_path: Path) -> None:
    content = coco_content()
    content["categories"].append({"id": 8, "name": "person", "supercategory": "person"})  # so does COCO itself
    assert read_table(write_coco(tmp_path, content))[0].class_names == ("cat", "dog", "person")
    assert "person" in json.loads((tmp_path / "data.json").read_text())["categories"][2]["name"]
