"""What localisation makes of a set that was read: rules, preparation, `check-data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raydet.config.located_data import LocatedDataConfig, LocatedSetConfig
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.families.localization.data import LOCATED
from tests.tiny_data import write_image
from tests.unit.data.located.layouts import ONE_EACH, coco, cub


def prepared(tmp_path: Path, labeled: Path, **data: Any) -> Any:
    config = LocatedDataConfig(labeled=str(labeled), **data)
    return LOCATED.prepare(config, tmp_path / "prepared")


def test_training_gets_classes_and_the_boxes_lie_apart(tmp_path: Path):
    data = prepared(tmp_path, coco(tmp_path / "a", *ONE_EACH), val=str(coco(tmp_path / "b", *ONE_EACH)))
    assert data.labeled.num_boxes == 0 and data.labeled.labels().tolist() == [0, 1]
    hidden = LOCATED.open_hidden(tmp_path / "prepared")
    assert hidden is not None and hidden.boxes_at(0).tolist() == [[10, 20, 40, 60]]
    assert data.val.boxes_at(1).tolist() == [[0, 0, 50, 60]]
    # (.1 + 0) / 2, (.25 + 0) / 2, (.4 + .5) / 2, (.75 + .75) / 2 in shares of 100 x 80
    mean = json.loads((tmp_path / "prepared" / "mean_box.json").read_text())["mean_box"]
    assert mean == pytest.approx([0.05, 0.125, 0.45, 0.75])


def test_a_part_of_the_labelled_images_leaves_no_box_in_sight(tmp_path: Path):
    shapes = {"path": "shapes", "shapes": {"num_images": 24, "max_objects": 1, "height": 48, "width": 48}}
    config = LocatedDataConfig(labeled=shapes, labeled_count=12)
    data = LOCATED.prepare(config, tmp_path / "prepared")
    assert len(data.labeled) == 12 and data.unlabeled is not None
    assert data.labeled.num_boxes == data.unlabeled.num_boxes == 0
    hidden = LOCATED.open_hidden(tmp_path / "prepared")
    assert hidden is not None and hidden.ids() == data.labeled.ids() and hidden.num_boxes == 12


def test_hidden_boxes_are_those_of_the_picture_that_takes_a_damaged_ones_place(tmp_path: Path):
    folder = coco(tmp_path / "a", *ONE_EACH)
    prepared(tmp_path, folder)
    before = LOCATED.open_hidden(tmp_path / "prepared")
    first = LOCATED.open(tmp_path / "prepared").labeled
    Path(first.name_at(0)).write_bytes(b"no picture")
    assert LOCATED.leave_out_damaged(tmp_path / "prepared") == 1
    now, hidden = LOCATED.open(tmp_path / "prepared").labeled, LOCATED.open_hidden(tmp_path / "prepared")
    assert now.id_at(0) == hidden.id_at(0) == first.id_at(1)
    assert hidden.boxes_at(0).tolist() == before.boxes_at(1).tolist() != before.boxes_at(0).tolist()


def test_classes_of_train_and_val_must_agree(tmp_path: Path):
    for name in ("cat", "dog"):
        write_image(tmp_path / "train" / name / "x.jpg", value=len(name))
        write_image(tmp_path / "val" / f"{name}s" / "x.jpg", value=7)
    with pytest.raises(DataError, match=r"class 'cats' \(1 image\) is not a class of the labelled set"):
        prepared(tmp_path, tmp_path / "train", val=str(tmp_path / "val"))


def test_a_class_of_one_image_is_warned_about_and_one_class_is_an_error(tmp_path: Path):
    data = prepared(tmp_path, coco(tmp_path / "a", *ONE_EACH))
    assert any("there is one image of class 'cat', 'dog'" in warning for warning in data.warnings)
    only_cats = tmp_path / "cats"
    write_image(only_cats / "cat" / "x.jpg")
    with pytest.raises(DataError, match=r"the labelled set has 1 class; attention comes from telling classes apart"):
        prepared(tmp_path / "other", only_cats)


def test_an_image_without_a_class_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"2\.jpg: image id 2 has no label"):
        prepared(tmp_path, coco(tmp_path / "a", ONE_EACH[0]))


@pytest.mark.parametrize(
    ("box", "complaint"),
    [([90.0, 20, 30, 40], "leaves its image"), ([10.0, 20, 0, 40], "has no inside")],
)
def test_bad_boxes_stop_where_they_measure_and_are_mentioned_where_they_do_not(
    box: list[float], complaint: str, tmp_path: Path
):
    bad, good = coco(tmp_path / "bad", (1, 1, box), ONE_EACH[1]), coco(tmp_path / "good", *ONE_EACH)
    with pytest.raises(DataError, match=f"a box of image id 1 {complaint}"):
        prepared(tmp_path, good, val=str(bad))
    data = prepared(tmp_path, bad, val=str(good))
    assert len(data.labeled) == 2  # its class counts all the same
    assert any(complaint in warning for warning in data.warnings) == (complaint == "has no inside")


def test_a_validation_set_without_boxes_is_warned_about(tmp_path: Path):
    for name in ("cat", "dog"):
        write_image(tmp_path / "val" / name / "x.jpg", value=len(name) + ord(name[0]))
    data = prepared(tmp_path, coco(tmp_path / "a", *ONE_EACH), val=str(tmp_path / "val"))
    assert any("the val set has no box: only classes can be measured" in warning for warning in data.warnings)


def test_check_data_knows_it(tmp_path: Path):
    one = LocatedSetConfig(path=str(cub(tmp_path)), subset="train")
    report = LOCATED.check_one(one)
    text = "\n".join(map(str, report.sets))
    assert "read as cub" in text and "2 boxes in 2 images, at most 1 in one" in text
    assert report.num_errors == 0
    assert np.array_equal(
        LOCATED.read("data", one, ProblemLog(), settings=None, generated=tmp_path, decode_images=True)[0].first,
        [0, 1, 2],
    )


def class_folders(folder: Path) -> Path:
    """Two classes of two images each; of `cat/b.png` the second half is missing."""
    for number, name in enumerate(("cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png")):
        write_image(folder / name, value=10 * number)
    damaged = folder / "cat" / "b.png"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    return folder


def test_a_damaged_picture_ends_the_preparation_or_is_left_out_as_the_setting_says(tmp_path: Path):
    folder = str(class_folders(tmp_path / "pictures"))
    with pytest.raises(DataError, match=r"b\.png.*data.on_bad_image: skip"):
        LOCATED.prepare(LocatedDataConfig.model_validate({"labeled": folder}), tmp_path / "refused")
    config = LocatedDataConfig.model_validate({"labeled": folder, "on_bad_image": "skip"})
    found = LOCATED.prepare(config, tmp_path / "kept").labeled
    assert sorted(found.ids()) == ["cat/a.png", "dog/c.png", "dog/d.png"]
    (line,) = (tmp_path / "kept" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "cat/b.png"


def test_the_range_of_16_bit_pictures_reaches_the_index(tmp_path: Path):
    for name in ("cat/a.png", "dog/b.png"):
        (tmp_path / "wide" / name).parent.mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 4095, dtype=np.uint16)).save(tmp_path / "wide" / name)
    views = {"gray16_range": [0, 4095]}
    config = LocatedDataConfig.model_validate({"labeled": str(tmp_path / "wide"), "views": views})
    pixels = LOCATED.prepare(config, tmp_path / "data").labeled.pixels_at(0)
    assert pixels.unique().tolist() == [255]  # 4095 of 4095; of 65535 it would be 4095 * 255 / 65535 = 15.9


def test_boxes_of_left_over_images_are_never_those_of_labelled_ones(tmp_path: Path):
    boxes = [[0.0, 0, 20, 20], [0.0, 0, 30, 30]]
    labeled = {"1", "2", "3", "4"}
    folder = tmp_path / "set"
    images = [write_image(folder / f"{row}.png", value=row).read_bytes() for row in range(6)]
    columns = {
        "image": images,
        "label": [0, 1, 0, 1, 0, 1],
        "image_id": [str(row) for row in range(1, 7)],
        "boxes": [None, None, None, None, *boxes],  # only the last two, which are left over
    }
    pq.write_table(pa.table(columns), folder / "a.parquet")
    (tmp_path / "ids.txt").write_text("\n".join(sorted(labeled)))
    data = prepared(tmp_path, folder / "a.parquet", labeled_ids=str(tmp_path / "ids.txt"))
    assert set(data.labeled.ids()) == labeled and data.unlabeled.ids() == ["5", "6"]
    assert data.unlabeled.num_boxes == 0
    assert LOCATED.open_hidden(tmp_path / "prepared") is None
    assert json.loads((tmp_path / "prepared" / "mean_box.json").read_text()) == {"mean_box": None}
