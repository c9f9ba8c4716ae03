"""Pictures and label files find each other, and what does not is told on both sides."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.config.box_data import DataConfig, DatasetConfig
from raydet.data.boxes.fix import fix_dataset
from raydet.data.check import format_report
from raydet.errors import DataError
from raydet.families.detection.data import BOXES
from tests.tiny_data import codes, read_table, write_image
from tests.unit.data.boxes.test_voc import BOX, SIZE, write_voc
from tests.unit.data.boxes.test_yolo import write_yolo

NFD, NFC = "Zelle_gru\u0308n", "Zelle_gr\u00fcn"  # a letter and an accent; one letter


def xml(name: str = "", objects: str = f"<object><name>dog</name>{BOX}</object>") -> str:
    return f"<annotation><filename>{name}</filename>{SIZE}{objects}</annotation>"


# --- VOC --------------------------------------------------------------------------------------------------------------


def test_of_two_pictures_the_one_that_the_xml_names_is_read(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    write_image(folder / "JPEGImages" / "one.png", value=9)  # the mask
    (folder / "Annotations" / "one.xml").write_text(xml("C:\\photos\\one.jpg"))
    table, log = read_table(folder)
    assert table.files == ["JPEGImages/one.jpg", "JPEGImages/two.png"]
    assert codes(log) == [] and codes(log, "warning") == ["image-unused"]
    assert "one.png, beside one.jpg" in str(log.problems[0])


def test_two_pictures_and_no_word_which_is_meant_are_an_error(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    write_image(folder / "JPEGImages" / "one.png", value=9)
    table, log = read_table(folder)
    assert table.ids == ["two"] and codes(log) == ["image-ambiguous"]
    (folder / "Annotations" / "one.xml").write_text(xml("one.png"))  # the advice
    assert read_table(folder)[0].files == ["JPEGImages/one.png", "JPEGImages/two.png"]


def test_a_picture_under_another_name_is_found_by_filename_and_a_contradiction_is_told(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    (folder / "Annotations" / "one.xml").rename(folder / "Annotations" / "0001.xml")
    (folder / "Annotations" / "0001.xml").write_text(xml("one.jpg"))
    table, log = read_table(folder)
    assert table.ids == ["0001", "two"] and table.files[0] == "JPEGImages/one.jpg" and not log.problems
    (folder / "Annotations" / "two.xml").write_text(xml("one.jpg"))
    table, log = read_table(folder)
    assert table.files == ["JPEGImages/one.jpg", "JPEGImages/two.png"]
    assert codes(log, "warning") == ["image-named-otherwise"]


def test_two_xml_files_about_one_picture_are_an_error(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    (folder / "Annotations" / "three.xml").write_text(xml("one.jpg"))
    _, log = read_table(folder)
    assert "image-shared" in codes(log)


def test_subfolders_are_read_and_subsets_of_them_are_asked_for(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    write_image(folder / "JPEGImages" / "day2" / "three.jpg", value=5)
    (folder / "Annotations" / "day2").mkdir()
    (folder / "Annotations" / "day2" / "three.xml").write_text(xml())
    table, log = read_table(folder)
    assert table.ids == ["day2/three", "one", "two"] and not log.problems
    for name, value in (("train", 6), ("valid", 7)):
        write_image(tmp_path / "flat" / name / f"{name}.jpg", value=value)
        (tmp_path / "flat" / name / f"{name}.xml").write_text(xml())
    with pytest.raises(DataError, match="holds the subsets train, valid; name one with `subset`"):
        read_table(tmp_path / "flat")
    assert read_table(tmp_path / "flat", subset="valid")[0].ids == ["valid/valid"]


@pytest.mark.parametrize(
    ("picture", "annotation", "differs"),
    [
        (NFC, NFD, "in its Unicode form"),
        ("One", "one", "in upper and lower case"),
        ("im 1", "im%201", "%20 is a space"),
    ],
)
def test_a_look_alike_is_named_with_what_differs(tmp_path: Path, picture: str, annotation: str, differs: str) -> None:
    folder = write_voc(tmp_path)
    (folder / "JPEGImages" / "one.jpg").rename(folder / "JPEGImages" / f"{picture}.jpg")
    (folder / "Annotations" / "one.xml").rename(folder / "Annotations" / f"{annotation}.xml")
    _, log = read_table(folder)
    assert (
        codes(log) == ["image-missing"] and differs in str(log.problems[0]) and f"{picture}.jpg" in str(log.problems[0])
    )
    (folder / "JPEGImages" / f"{picture}.jpg").rename(folder / "JPEGImages" / f"{annotation}.jpg")  # the advice
    assert not read_table(folder)[1].problems
    yolo = write_yolo(tmp_path / "yolo")
    (yolo / "images/train/a.jpg").rename(yolo / "images/train" / f"{picture}.jpg")
    (yolo / "labels/train/a.txt").rename(yolo / "labels/train" / f"{annotation}.txt")
    _, log = read_table(yolo, subset="train")
    assert codes(log) == ["label-name"] and differs in str(log.problems[0])


# --- YOLO -------------------------------------------------------------------------------------------------------------


def test_pictures_that_share_a_label_file_are_an_error(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    write_image(folder / "images/train/a.png", value=9)  # the mask
    _, log = read_table(folder, subset="train")
    assert codes(log) == ["label-shared"]
    assert "images/train/a.png and images/train/a.jpg have the same label file" in str(log.problems[0])


def test_label_files_and_pictures_without_each_other_are_an_error(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    for name in "ab":
        (folder / f"images/train/{name}.jpg").rename(folder / f"images/train/{name}_7436.jpg")
    (folder / "labels/train/deep").mkdir()
    (folder / "labels/train/deep/x.txt").write_text("0 0.5 0.5 1 1\n")
    table, log = read_table(folder, subset="train")
    assert codes(log) == ["label-without-image"] and len(table) == 2
    # b.txt is empty: it says nothing
    assert "2 label files have no picture, and 2 pictures no label file" in str(log.problems[0])
    with pytest.raises(DataError, match="2 label files have no picture"):
        BOXES.prepare(DataConfig(labeled=DatasetConfig(path=str(folder), subset="train")), tmp_path / "run")
    # they are not known to be background
    with pytest.raises(DataError, match="2 images with annotations that could not be used are left out"):
        fix_dataset(DatasetConfig(path=str(folder), subset="train"), "drop", tmp_path / "out.json")
    for name in "ab":  # the advice: an empty file for what is background
        (folder / f"labels/train/{name}_7436.txt").write_text("")
    _, log = read_table(folder, subset="train")
    assert codes(log) == [] and codes(log, "warning") == ["label-without-image"]


def test_labels_of_pictures_in_another_subset_and_lists_are_no_orphans(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, yaml="train: train.txt\nnames: [cat, dog]\n")
    (folder / "train.txt").write_text("images/train/a.jpg\n")  # b.jpg has a label file, and is not listed
    (folder / "labels/train/b.txt").write_text("0 0.5 0.5 1 1\n")
    (folder / "labels/train/classes.txt").write_text("cat\ndog\n")
    table, log = read_table(folder)
    assert table.ids == ["images/train/a.jpg"] and not log.problems


def test_unlabelled_pictures_need_no_label_files(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    for file in (folder / "labels/train").iterdir():
        file.unlink()
    (folder / "labels/train/x.txt").write_text("0 0.5 0.5 1 1\n")
    unlabeled = {"path": str(folder), "subset": "train"}
    labeled = {"path": str(write_yolo(tmp_path / "other")), "subset": "val"}
    data = BOXES.prepare(DataConfig.model_validate({"labeled": labeled, "unlabeled": unlabeled}), tmp_path / "run")
    assert data.unlabeled is not None and len(data.unlabeled) == 2


def test_labels_beside_the_pictures_are_read_whatever_the_folder_is_called(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, yaml="train: images/train\nnames: [cat, dog]\n")
    (folder / "labels/train/a.txt").rename(folder / "images/train/a.txt")
    table, log = read_table(folder)
    assert table.boxes.tolist() == [[40, 20, 60, 60]] and not log.problems


def test_where_label_files_were_looked_for_survives_the_error_that_follows(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    (folder / "annotations").mkdir()
    (folder / "labels/train").rename(folder / "annotations/train")
    config = DataConfig(labeled=DatasetConfig(path=str(folder), subset="train"))
    with pytest.raises(DataError) as caught:
        BOXES.prepare(config, tmp_path / "run")
    for place in ("labels/train/a.txt", "images/train/a.txt was looked for", "annotations/train/a.txt may be meant"):
        assert place in str(caught.value)
    report = BOXES.check_one(config.labeled)
    assert report.num_errors == 1 and "annotations/train/a.txt may be meant" in format_report(report)
    (folder / "annotations/train").rename(folder / "labels/train")  # the advice
    assert not read_table(folder, subset="train")[1].problems
