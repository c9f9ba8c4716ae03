"""The published layouts of localisation, made small: what is read, and what is refused with which words."""

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
from raydet.data.kind import kind_of
from raydet.data.located.formats.detect import detect_located, read_located
from raydet.data.located.table import LocatedTable
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.families.localization.data import LOCATED
from tests.tiny_data import codes, write_image


def read(tmp_path: Path, **config: Any) -> tuple[LocatedTable, str]:
    log = ProblemLog()
    found = read_located(LocatedSetConfig(**config), log, generated=tmp_path / "generated")
    assert not codes(log), log.problems
    return found


def described(table: LocatedTable) -> dict[str, tuple[str, list[list[float]]]]:
    """Return id -> class and boxes."""
    return {
        table.id_at(row): (table.class_names[table.images.labels[row]], table.boxes_at(row).tolist())
        for row in range(len(table))
    }


def cub(folder: Path) -> Path:
    """Two classes, three images: the second and third train."""
    names = ("001.Black_footed_Albatross/a.jpg", "001.Black_footed_Albatross/b.jpg", "002.Crow/c.jpg")
    for number, name in enumerate(names):
        write_image(folder / "images" / name, value=number)
    lists = {
        "images.txt": [f"{i} {name}" for i, name in enumerate(names, 1)],
        "image_class_labels.txt": ["1 1", "2 1", "3 2"],
        "classes.txt": ["1 001.Black_footed_Albatross", "2 002.Crow"],
        "bounding_boxes.txt": ["1 60.0 27.0 30.0 40.0", "2 1.0 2.0 3.0 4.0", "3 0.0 0.0 100.0 80.0"],
        "train_test_split.txt": ["1 0", "2 1", "3 1"],
    }
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def test_cub(tmp_path: Path):
    folder = cub(tmp_path / "CUB_200_2011")
    for path in (folder, tmp_path):  # its own folder, or the one that the archive was unpacked in
        table, format = read(tmp_path, path=str(path), subset="train")
        assert format == "cub"
        assert described(table) == {
            "001.Black_footed_Albatross/b.jpg": ("001.Black_footed_Albatross", [[1, 2, 4, 6]]),  # x, y, x + w, y + h
            "002.Crow/c.jpg": ("002.Crow", [[0, 0, 100, 80]]),
        }
    assert kind_of(str(folder)) == "localization"
    assert len(read(tmp_path, path=str(folder), subset="test")[0]) == 1
    assert not read(tmp_path, path=str(folder), subset="train", read_boxes=False)[0].has_boxes.any()


def test_cub_says_what_is_missing_or_damaged(tmp_path: Path):
    folder = cub(tmp_path)
    with pytest.raises(DataError, match="subset is None: CUB-200-2011 has train and test; set `subset`"):
        read(tmp_path, path=str(folder))
    (folder / "bounding_boxes.txt").write_text("1 60 27 30 40\n2 1 2 3\n")
    with pytest.raises(DataError, match=r"bounding_boxes.txt, line 2: expected a number and 4 words, got '2 1 2 3'"):
        read(tmp_path, path=str(folder), subset="train")
    (folder / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"classes.txt: no such file; is the data set complete\?"):
        read(tmp_path, path=str(folder), subset="train")


def test_tiny_imagenet(tmp_path: Path):
    for wnid, number in (("n02", 0), ("n01", 1)):
        write_image(tmp_path / "train" / wnid / "images" / f"{wnid}_0.JPEG", 64, 64, number)
        (tmp_path / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t63\n")
    write_image(tmp_path / "val" / "images" / "val_0.JPEG", 64, 64, 7)
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t32\t44\t62\n")
    (tmp_path / "wnids.txt").write_text("n02\nn01\n")
    train, format = read(tmp_path, path=str(tmp_path), subset="train")
    assert format == "tiny_imagenet"
    assert train.class_names == ("n01", "n02")
    assert described(train) == {  # inclusive corners: 63 is the last pixel
        "n01/images/n01_0.JPEG": ("n01", [[0, 10, 64, 64]]),
        "n02/images/n02_0.JPEG": ("n02", [[0, 10, 64, 64]]),
    }
    val, _ = read(tmp_path, path=str(tmp_path), subset="val")
    assert described(val) == {"images/val_0.JPEG": ("n02", [[0, 32, 45, 63]])}
    with pytest.raises(DataError, match="subset is 'test': Tiny-ImageNet has train and val"):
        read(tmp_path, path=str(tmp_path), subset="test")


def xml(*objects: tuple[str, int, int, int, int]) -> str:
    entries = (
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for name, a, b, c, d in objects
    )
    return f"<annotation>{''.join(entries)}</annotation>"


def imagenet(root: Path) -> Path:
    data, annotations = root / "Data" / "CLS-LOC", root / "Annotations" / "CLS-LOC"
    for wnid, number in (("n02", 0), ("n01", 1)):
        write_image(data / "train" / wnid / f"{wnid}_1.JPEG", value=number)
    write_image(data / "val" / "ILSVRC2012_val_00000001.JPEG", value=5)
    (annotations / "train" / "n01").mkdir(parents=True)
    (annotations / "train" / "n01" / "n01_1.xml").write_text(xml(("n01", 1, 2, 30, 40)))
    (annotations / "val").mkdir()
    two = xml(("n02", 5, 6, 70, 60), ("n02", 0, 0, 10, 10))
    (annotations / "val" / "ILSVRC2012_val_00000001.xml").write_text(two)
    return root


def test_imagenet(tmp_path: Path):
    root = imagenet(tmp_path / "ILSVRC")
    train, format = read(tmp_path, path=str(tmp_path), subset="train")  # the folder above ILSVRC will do
    assert format == "imagenet"
    assert described(train) == {"n01/n01_1.JPEG": ("n01", [[1, 2, 30, 40]]), "n02/n02_1.JPEG": ("n02", [])}
    val, _ = read(tmp_path, path=str(root), subset="val")  # its class is what its boxes are called
    assert described(val) == {"ILSVRC2012_val_00000001.JPEG": ("n02", [[5, 6, 70, 60], [0, 0, 10, 10]])}
    no_boxes, _ = read(tmp_path, path=str(root), subset="val", read_boxes=False)
    assert described(no_boxes) == {"ILSVRC2012_val_00000001.JPEG": ("n02", [])}


def test_an_xml_file_with_entities_is_refused(tmp_path: Path):
    root, log = imagenet(tmp_path), ProblemLog()
    file = root / "Annotations" / "CLS-LOC" / "train" / "n01" / "n01_1.xml"
    file.write_text('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>')
    read_located(LocatedSetConfig(path=str(root), subset="train"), log, generated=tmp_path)
    assert codes(log) == ["xml"] and "DTD" in log.problems[0].message


def coco(folder: Path, *boxes: tuple[int, int, list[float]], crowd: int = 0) -> Path:
    """Two images of 100 x 80; boxes are (image, category, xywh); categories 1 cat, 2 dog."""
    for number in (1, 2):
        write_image(folder / f"{number}.jpg", value=number)
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 80} for n in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd if i == 0 else 0}
            for i, (image, category, box) in enumerate(boxes)
        ],
    }
    file = folder / "boxes.json"
    file.write_text(json.dumps(content))
    return file


ONE_EACH = ((1, 1, [10.0, 20, 30, 40]), (2, 2, [0.0, 0, 50, 60]))


def test_coco_with_one_class_per_image(tmp_path: Path):
    file = coco(tmp_path, *ONE_EACH, (1, 1, [1.0, 1, 5, 5]))
    for path in (file, tmp_path):
        table, format = read(tmp_path, path=str(path))
        assert format == "coco"
        assert described(table) == {"1": ("cat", [[10, 20, 40, 60], [1, 1, 6, 6]]), "2": ("dog", [[0, 0, 50, 60]])}


def test_boxes_of_several_classes_are_an_error_that_names_the_image(tmp_path: Path):
    several = ((1, 1, [0.0, 0, 10, 10]), (1, 2, [0.0, 0, 50, 60]), (1, 2, [3.0, 3, 9, 9]), (2, 2, [0.0, 0, 5, 5]))
    config = LocatedSetConfig(path=str(coco(tmp_path, *several)))
    log = ProblemLog()
    table, _ = read_located(config, log, generated=tmp_path)
    assert codes(log) == ["several-classes"]
    assert "1.jpg has boxes of several classes ('cat', 'dog')" in str(log.problems[0])
    assert "data.on_several_classes" in str(log.problems[0])
    for rule, kept in {"drop": ["2"], "largest": ["1", "2"]}.items():
        log = ProblemLog()
        table, _ = read_located(config, log, on_several=rule, generated=tmp_path)
        assert codes(log) == [] and codes(log, "warning") == ["several-classes"]
        assert [table.id_at(row) for row in range(len(table))] == kept
    # the class of the largest box, whose boxes alone are left
    assert described(table)["1"] == ("dog", [[0, 0, 50, 60], [3, 3, 12, 12]])


def test_crowd_boxes_say_nothing_about_the_class(tmp_path: Path):
    file = coco(tmp_path, (1, 2, [0.0, 0, 99, 79]), *ONE_EACH, crowd=1)
    table, _ = read(tmp_path, path=str(file))
    assert described(table)["1"] == ("cat", [[10, 20, 40, 60]])


def test_folders_of_classes_have_no_boxes(tmp_path: Path):
    for number, name in enumerate(("cat", "dog")):
        write_image(tmp_path / name / "x.jpg", value=number)
    table, format = read(tmp_path, path=str(tmp_path))
    assert format == "folder"
    assert described(table) == {"cat/x.jpg": ("cat", []), "dog/x.jpg": ("dog", [])}


def parquet(file: Path, boxes: Any, type: Any = None) -> Path:
    content = [write_image(file.parent / f"{n}.png", value=n).read_bytes() for n in range(2)]
    columns = {"image": pa.array(content, pa.binary()), "label": ["cat", "dog"]}
    if boxes is not None:
        columns["boxes"] = pa.array(boxes, type)
    pq.write_table(pa.table(columns), file)
    return file


@pytest.mark.parametrize("boxes", [[[1, 2, 3, 4], []], [[[1, 2, 3, 4]], []], [[[1.0, 2.0, 3.0, 4.0]], None]])
def test_parquet(boxes: Any, tmp_path: Path):
    file = parquet(tmp_path / "x.parquet", boxes)
    table, format = read(tmp_path, path=str(file))
    assert format == "parquet"
    assert described(table) == {"0": ("cat", [[1, 2, 3, 4]]), "1": ("dog", [])}
    table, _ = read(tmp_path, path=str(file), box_format="xywh")
    assert described(table)["0"] == ("cat", [[1, 2, 4, 6]])


def test_parquet_without_boxes_and_with_other_things_in_their_column(tmp_path: Path):
    assert not read(tmp_path, path=str(parquet(tmp_path / "x.parquet", None)))[0].has_boxes.any()
    with pytest.raises(DataError, match=r"no column 'where' \(there are: .*\); correct box_column"):
        read(tmp_path, path=str(tmp_path / "x.parquet"), box_column="where")
    parquet(tmp_path / "y.parquet", ["a", "b"])
    with pytest.raises(DataError, match="column 'boxes' holds .*; expected lists of numbers, four for each box"):
        read(tmp_path, path=str(tmp_path / "y.parquet"))
    parquet(tmp_path / "z.parquet", [[1, 2, 3], []])
    with pytest.raises(DataError, match="row 0: 3 numbers in 'boxes'; expected four for each box"):
        read(tmp_path, path=str(tmp_path / "z.parquet"))


def test_generated_shapes_have_one_object_each(tmp_path: Path):
    table, format = read(tmp_path, path="shapes", shapes={"num_images": 5, "max_objects": 1, "height": 48, "width": 48})
    assert format == "shapes"
    assert len(table) == len(table.boxes) == 5
    assert detect_located(LocatedSetConfig(path="shapes")) == "shapes"


def test_sets_that_have_no_boxes_in_any_layout_are_refused_with_what_is_read(tmp_path: Path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"x")
    with pytest.raises(DataError, match="idx has classes and no boxes, and is not read here; give CUB_200_2011"):
        read(tmp_path, path=str(tmp_path))


# --- the rules, and what becomes of it --------------------------------------------------------------------------------


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


def test_classes_of_train_and_val_must_agree(tmp_path: Path):
    for name in ("cat", "dog"):
        write_image(tmp_path / "train" / name / "x.jpg", value=len(name))
        write_image(tmp_path / "val" / f"{name}s" / "x.jpg", value=7)
    with pytest.raises(DataError, match=r"class 'cats' \(1 images\) is not a class of the labelled set"):
        prepared(tmp_path, tmp_path / "train", val=str(tmp_path / "val"))


def test_a_class_of_one_image_is_warned_about_and_one_class_is_an_error(tmp_path: Path):
    data = prepared(tmp_path, coco(tmp_path / "a", *ONE_EACH))
    assert any("there is one image of class 'cat', 'dog'" in warning for warning in data.warnings)
    only_cats = tmp_path / "cats"
    write_image(only_cats / "cat" / "x.jpg")
    with pytest.raises(DataError, match=r"the labelled set has 1 classes; attention comes from telling classes apart"):
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
