"""What a folder is taken for: by all that lies there, and by what the set is for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raydet.config.box_data import DataConfig, DatasetConfig
from raydet.config.class_data import ImageSetConfig
from raydet.data.boxes.formats.detect import AnnotationsNotReadError, detect_format, read_source
from raydet.data.check import format_report
from raydet.data.classes.formats.detect import detect_format as classes_format
from raydet.data.kind import kind_of
from raydet.data.problems import ProblemLog
from raydet.data.yaml_kind import yaml_kind
from raydet.errors import DataError
from raydet.families.classification.data import IMAGES
from raydet.families.detection.data import BOXES
from tests.tiny_data import coco_content, codes, read_table, write_coco, write_image
from tests.tiny_images import data_config, encoded, noise, write_class_folders, write_parquet
from tests.unit.data.boxes.test_voc import write_voc
from tests.unit.data.boxes.test_yolo import write_yolo

RAYDET_CONFIG = "run: {dir: x}\nmethod: {name: supervised}\ndata: {labeled: .}\n"


def format_of(path: Path, role: str = "data") -> str:
    return detect_format(DatasetConfig(path=str(path)), role)


# --- the role of a set ------------------------------------------------------------------------------------------------


def test_unlabelled_images_of_a_folder_are_all_its_images_whatever_lies_there(tmp_path: Path) -> None:
    photos = write_coco(tmp_path / "photos").parent  # a.jpg and b.jpg are in data.json
    for number, name in enumerate(("c.jpg", "more/d.jpg")):
        write_image(photos / name, value=20 + number)
    config = DataConfig.model_validate({"labeled": str(photos / "data.json"), "unlabeled": str(photos)})
    data = BOXES.prepare(config, tmp_path / "run")
    assert data.unlabeled is not None and data.unlabeled.ids() == ["a.jpg", "b.jpg", "c.jpg", "more/d.jpg"]
    assert any("[annotations-ignored]" in warning and "COCO (data.json)" in warning for warning in data.warnings)
    report = BOXES.check(config)
    assert (report.sets[1].name, report.sets[1].images) == ("unlabeled", 4)
    assert format_of(photos) == format_of(photos, "labeled") == format_of(photos, "val") == "coco"


def test_the_advice_to_read_the_annotations_of_unlabelled_images_works(tmp_path: Path) -> None:
    photos = write_coco(tmp_path / "photos").parent
    write_image(photos / "c.jpg", value=20)
    set_config = {"path": str(photos), "format": "coco"}
    config = DataConfig.model_validate({"labeled": str(write_coco(tmp_path / "other")), "unlabeled": set_config})
    data = BOXES.prepare(config, tmp_path / "run")
    hidden = BOXES.open_hidden(tmp_path / "run")
    assert data.unlabeled is not None and data.unlabeled.ids() == ["1", "2"] and hidden is not None


@pytest.mark.parametrize("write", [write_voc, write_yolo])
def test_annotated_folders_of_other_formats_are_plain_images_too_where_labels_are_not_wanted(
    tmp_path: Path, write: object
) -> None:
    folder = write(tmp_path / "set")  # type: ignore[operator]
    assert format_of(folder, "unlabeled") == "folder"
    assert format_of(folder, "labeled") in ("voc", "yolo")


def test_a_folder_of_pictures_beside_parquet_is_not_guessed_for_unlabelled_images(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    write_parquet(tmp_path / "a.parquet")
    config = ImageSetConfig(path=str(tmp_path))
    assert classes_format(config, "labeled") == "parquet"
    with pytest.raises(DataError, match="holds both image files and images in other files .*`format: folder`"):
        classes_format(config, "unlabeled")
    for format, images in (("parquet", 6), ("folder", 2)):
        unlabeled = {"path": str(tmp_path), "format": format}
        labeled = write_class_folders(tmp_path / "labeled", {"cat": 1, "dog": 1}, first=50)
        data = IMAGES.prepare(data_config(labeled, unlabeled=unlabeled), tmp_path / format)
        assert data.unlabeled is not None and len(data.unlabeled) == images + 2 * (format == "folder")


def test_a_table_without_images_beside_class_folders_is_no_image_set(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    write_parquet(tmp_path / "scores.parquet")
    assert classes_format(ImageSetConfig(path=str(tmp_path), image_column="picture")) == "folder"


# --- evidence, not the first match ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dvc.yaml", "stages: {}\n"),
        ("config.yml", "a: 1\n"),
        ("mine.yaml", RAYDET_CONFIG),
        ("data.yaml", RAYDET_CONFIG),
    ],
)
def test_a_stray_yaml_makes_no_data_set_yolo(tmp_path: Path, name: str, text: str) -> None:
    voc = write_voc(tmp_path / "voc")
    coco = write_coco(tmp_path / "coco").parent
    for folder in (voc, coco):
        (folder / name).write_text(text)
    assert (format_of(voc), format_of(coco)) == ("voc", "coco")


def test_a_yaml_is_judged_by_what_stands_in_it(tmp_path: Path) -> None:
    contents = {
        "coco8.yaml": ("train: images\nnames: [a]\n", "data set"),
        "dataset.yaml": ("train: images\nnames: {0: a}\n", "data set"),
        "mine.yaml": (RAYDET_CONFIG, "config"),
        "data.yml": (RAYDET_CONFIG, "config"),
        "dvc.yaml": ("stages: {}\n", "other"),
        "dataset.yml": ("names: [\n", "data set"),  # broken: its reader says so
        "other.yaml": ("names: [\n", "other"),
        "list.yaml": ("- names\n", "other"),
    }
    for name, (text, kind) in contents.items():
        (tmp_path / name).write_text(text)
        assert yaml_kind(tmp_path / name) == kind, name
    with pytest.raises(DataError, match="mine.yaml: a configuration of raydet, not a data set"):
        read_table(tmp_path / "mine.yaml")


def test_two_kinds_of_annotations_are_not_chosen_between(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    content = coco_content()
    for entry, name in zip(content["images"], ("JPEGImages/one.jpg", "JPEGImages/two.png"), strict=True):
        entry["file_name"] = name
    (folder / "data.json").write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"several kinds .*COCO \(data.json\).*`format: voc` or `format: coco`"
    ) as caught:
        read_table(folder)
    for format, boxes in (("voc", 2), ("coco", 3)):
        assert f"format: {format}" in str(caught.value)
        assert len(read_table(folder, format=format)[0].boxes) == boxes


def test_a_json_one_folder_deeper_is_found(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "annotations" / "instances").mkdir(parents=True)
    (tmp_path / "data.json").rename(tmp_path / "annotations" / "instances" / "train.json")
    assert format_of(tmp_path) == "coco"
    with pytest.raises(DataError, match=f"it is in {tmp_path}|neither in"):
        read_table(tmp_path)
    assert len(read_table(tmp_path, images=str(tmp_path))[0]) == 2


def test_annotations_with_a_small_a_and_images_are_voc(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    (folder / "Annotations").rename(folder / "annotations")
    (folder / "JPEGImages").rename(folder / "images")
    table, log = read_table(folder)
    assert not log.problems and table.files == ["images/one.jpg", "images/two.png"]


def test_hidden_files_of_other_systems_count_nowhere(tmp_path: Path) -> None:
    voc, yolo = write_voc(tmp_path / "voc"), write_yolo(tmp_path / "yolo")
    coco = write_coco(tmp_path / "coco").parent
    parquet = write_parquet(tmp_path / "parquet" / "a.parquet").parent
    for file in [*voc.rglob("*.*"), *yolo.rglob("*.*"), *coco.glob("*.*"), *parquet.glob("*.*")]:
        (file.parent / f"._{file.name}").write_bytes(b"\0\5\x16\7")
        (file.parent / "__MACOSX").mkdir(exist_ok=True)
        (file.parent / "__MACOSX" / file.name).write_bytes(b"\0\5\x16\7")
    assert [len(read_table(folder)[0]) for folder in (voc, coco)] == [2, 2]
    table, log = read_table(yolo, subset="train")
    assert len(table) == 2 and not log.problems
    report = IMAGES.check_one(ImageSetConfig(path=str(parquet)))
    assert report.counts == {} and report.sets[0].images == 6


def test_several_coco_files_are_told_apart_by_subset(tmp_path: Path) -> None:
    for name in ("train", "valid"):
        write_coco(tmp_path / name, name="_annotations.coco.json")
    assert kind_of(str(tmp_path)) == "detection"
    with pytest.raises(DataError, match=r"several COCO files .*or set `subset` \(train, valid\)"):
        read_table(tmp_path)
    table, log = read_table(tmp_path, subset="train")
    assert table.root == tmp_path / "train" and not log.problems
    with pytest.raises(DataError, match="none is called 'test'; correct `subset`"):
        read_table(tmp_path, subset="test")
    with pytest.raises(DataError, match="subset 'train' is for folders of several files"):
        read_table(tmp_path / "train" / "_annotations.coco.json", subset="train")


# --- annotations that are not read ------------------------------------------------------------------------------------

LABELME = {"version": "5", "shapes": [{"label": "a", "points": [[1, 1], [2, 2]]}], "imagePath": "a.jpg"}


@pytest.mark.parametrize(
    ("name", "text", "called"),
    [
        ("a.json", json.dumps(LABELME), "labelme"),
        ("project.json", json.dumps([{"data": {"image": "a.jpg"}, "annotations": []}]), "Label Studio"),
        ("via.json", json.dumps({"_via_img_metadata": {}}), "VIA"),
        ("x.json", json.dumps([{"image": "a.jpg", "annotations": [{"coordinates": {"x": 1}}]}]), "CreateML"),
        ("annotations.xml", "<?xml version='1.0'?><annotations><image/></annotations>", "CVAT"),
        ("boxes.csv", "filename,width,height,class,xmin,ymin\n", "tables of boxes"),
        ("a.txt", "0 0.5 0.5 0.1 0.1\n", "YOLO label files without names"),
        ("a.tfrecord", "x", "TFRecord"),
    ],
)
def test_annotations_of_other_tools_are_named_and_never_background(
    tmp_path: Path, name: str, text: str, called: str
) -> None:
    write_image(tmp_path / "a.jpg")
    (tmp_path / name).write_text(text)
    assert kind_of(str(tmp_path)) == "detection"
    for role in ("labeled", "val", "data"):
        with pytest.raises(AnnotationsNotReadError, match=f"1 image and annotations that are not read: .*{called}"):
            format_of(tmp_path, role)
    report = BOXES.check_one(DatasetConfig(path=str(tmp_path)))
    assert report.num_errors == 1 and called in format_report(report)
    with pytest.raises(DataError, match=called):
        BOXES.prepare(DataConfig(labeled=DatasetConfig(path=str(tmp_path))), tmp_path / "run")
    log = ProblemLog()  # the way out that is named, and what it leaves to know
    source = read_source(DatasetConfig(path=str(tmp_path), format="folder"), log)
    assert source.files == ["a.jpg"] and "annotations-ignored" in codes(log, "warning")
    assert read_source(DatasetConfig(path=str(tmp_path)), ProblemLog(), role="unlabeled").files == ["a.jpg"]


def test_the_advice_to_add_names_of_classes_to_label_files_works(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.2 0.5\n")
    with pytest.raises(DataError, match="add classes.txt, or a data.yaml"):
        read_table(tmp_path)
    (tmp_path / "classes.txt").write_text("cell\n")
    table, log = read_table(tmp_path)
    assert not log.problems and table.boxes.tolist() == [[40, 20, 60, 60]]


def test_labelled_images_without_annotations_are_refused_before_their_classes_are_compared(tmp_path: Path) -> None:
    write_image(tmp_path / "photos" / "a.jpg")
    config = {"labeled": str(tmp_path / "photos"), "val": str(write_coco(tmp_path / "val"))}
    with pytest.raises(DataError, match="data.labeled: .*images, but no annotations there; looked for"):
        BOXES.prepare(DataConfig.model_validate(config), tmp_path / "run")


def test_a_classifier_is_told_of_boxes_that_lie_among_its_images(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    write_coco(tmp_path / "cat")
    report = IMAGES.check_one(ImageSetConfig(path=str(tmp_path)))
    assert ("warning", "annotations-ignored") in report.counts and "COCO (data.json)" in format_report(report)


def test_pictures_that_differ_by_their_ending_are_mentioned_in_both_families(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat" / "0.bmp").write_bytes(encoded(noise(5, 5), "BMP"))
    report = IMAGES.check_one(ImageSetConfig(path=str(tmp_path)))
    assert report.counts == {("warning", "image-stem-twice"): 1}
    report = BOXES.check_one(DatasetConfig(path=str(tmp_path)))
    assert report.counts == {("warning", "image-stem-twice"): 1}


def test_names_that_look_alike_are_mentioned_in_every_format(tmp_path: Path) -> None:
    voc = write_voc(tmp_path / "voc", "<object><name>Cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>"
                    "<ymax>9</ymax></bndbox></object>")  # fmt: skip
    yolo = write_yolo(tmp_path / "yolo", yaml="train: images/train\nnames: [cat, 'Cat ']\n".replace("'Cat '", "Cat"))
    for folder in (voc, yolo):
        assert codes(read_table(folder)[1], "warning") == ["class-name-similar"]
    folders = write_class_folders(tmp_path / "folders", {"cat": 1, "Cat": 1})
    assert IMAGES.check_one(ImageSetConfig(path=str(folders))).counts[("warning", "class-name-similar")] == 1
