from __future__ import annotations

from pathlib import Path

import pytest

from raydet.errors import DataError
from tests.tiny_data import codes, read_table, write_image

BOX = "<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>60</ymax></bndbox>"
SIZE = "<size><width>100</width><height>80</height><depth>3</depth></size>"


def write_voc(folder: Path, objects: str = f"<object><name>dog</name>{BOX}</object>", size: str = SIZE) -> Path:
    """A VOC folder with the image `one` (see `objects`) and the image `two` with a cat."""
    write_image(folder / "JPEGImages" / "one.jpg")
    write_image(folder / "JPEGImages" / "two.png", value=1)
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    (folder / "Annotations" / "one.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    cat = f"<object><name>cat</name><difficult>0</difficult>{BOX}</object>"
    (folder / "Annotations" / "two.xml").write_text(f"<annotation>{SIZE}{cat}</annotation>")
    return folder


def test_a_folder_is_read_with_classes_in_alphabetical_order(tmp_path: Path) -> None:
    table, log = read_table(write_voc(tmp_path))
    assert not log.problems
    assert table.class_names == ("cat", "dog")
    assert table.ids == ["one", "two"]
    assert table.files == ["JPEGImages/one.jpg", "JPEGImages/two.png"]
    assert table.classes.tolist() == [1, 0]
    # pixels 11..40 counted from 1, both included, are the half-open range 10..40 counted from 0
    assert table.boxes.tolist() == [[10, 20, 40, 60], [10, 20, 40, 60]]


def test_xml_beside_the_images_is_voc_too(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc")
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in [*(tmp_path / "voc" / "Annotations").iterdir(), *(tmp_path / "voc" / "JPEGImages").iterdir()]:
        file.rename(flat / file.name)
    table, log = read_table(flat)
    assert not log.problems and table.files == ["one.jpg", "two.png"]


def test_a_subset_reads_its_list_and_knows_all_classes(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("two  1\n")
    table, log = read_table(folder, subset="train")
    assert not log.problems and table.ids == ["two"] and table.class_names == ("cat", "dog")
    (lists / "train.txt").write_text("two\nthree\n")
    _, log = read_table(folder, subset="train")
    assert codes(log) == ["annotation-file-missing"] and "three.xml" in str(log.problems[0])
    with pytest.raises(DataError, match="no list 'val' .there: train."):
        read_table(folder, subset="val")
    with pytest.raises(DataError, match="no list"):
        read_table(folder, subset="../../train")


def test_a_list_that_cannot_be_read_is_one_message_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_voc(tmp_path) / "ImageSets" / "Main" / "train.txt"
    file.parent.mkdir(parents=True)
    for encoding in ("latin-1", "utf-16"):
        file.write_bytes("one\nzwölf\n".encode(encoding))
        with pytest.raises(DataError, match=r"Main/train\.txt: cannot be read as UTF-8 text: .*; save it as UTF-8"):
            read_table(tmp_path, subset="train")
    file.write_text("one\n", encoding="utf-8-sig")
    assert read_table(tmp_path, subset="train")[0].ids == ["one"]
    # What permissions forbid, root may read all the same.
    read = Path.read_bytes

    def forbid(path: Path) -> bytes:
        if path.name == "train.txt":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", forbid)
    with pytest.raises(DataError, match=r"Main/train\.txt: cannot be read: Permission denied"):
        read_table(tmp_path, subset="train")


def test_names_with_spaces_are_listed_as_they_are(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    for number, name in enumerate(("photo", "photo (1)", "photo 1", "more/photo (2)"), start=3):
        write_image(folder / "JPEGImages" / f"{name}.jpg", value=number)
        (folder / "Annotations" / "more").mkdir(exist_ok=True)
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{SIZE}</annotation>")
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    file = folder / "ImageSets" / "Main" / "train.txt"

    def listed(text: str) -> list[str]:
        file.write_text(text)
        table, log = read_table(folder, subset="train")
        assert not log.problems
        return sorted(table.ids)

    assert listed("photo (1)\n  two \nphoto 1\n") == ["photo (1)", "photo 1", "two"]
    assert listed("photo (2)\n") == listed("photo (2)  1\n") == ["more/photo (2)"]  # the last part of a name is enough
    # as in cat_train.txt: with a cat, without, with difficult ones alone
    assert listed("photo (1)  1\nphoto -1\ntwo  0\nphoto 1  1\n") == ["photo", "photo (1)", "photo 1", "two"]
    for line, name in (("photo (3)", "photo (3).xml"), ("photo (3) -1", "photo (3).xml"), ("two 2", "two 2.xml")):
        file.write_text(f"one\n{line}\n")
        table, log = read_table(folder, subset="train")
        assert codes(log) == ["annotation-file-missing"] and f"Annotations/{name}" in str(log.problems[0])
        assert table.ids == ["one"]


def test_boxes_counted_from_zero_and_float_boxes_fit(tmp_path: Path) -> None:
    box = "<bndbox><xmin>0</xmin><ymin>0.5</ymin><xmax>99.5</xmax><ymax>80</ymax></bndbox>"
    table, log = read_table(write_voc(tmp_path, f"<object><name>dog</name>{box}</object>"))
    assert not log.problems
    assert table.boxes[0].tolist() == [0, 0, 99.5, 80]


def test_difficult_objects_count_as_crowd_and_parts_are_not_read(tmp_path: Path) -> None:
    part = f"<part><name>head</name>{BOX}</part>"
    hard = f"<object><name>dog</name><difficult>1</difficult>{part}{BOX}</object>"
    easy = f"<object><name>dog</name><difficult>0</difficult>{BOX.replace('11', '12')}</object>"
    table, log = read_table(write_voc(tmp_path, hard + easy))
    assert not log.problems
    assert table.crowd.tolist() == [True, False, False] and table.class_names == ("cat", "dog")


def test_an_image_without_objects_is_kept(tmp_path: Path) -> None:
    table, log = read_table(write_voc(tmp_path, objects=""))
    assert not log.problems and table.first.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("objects", "code", "message"),
    [
        (f"<object><name>dog</name>{BOX.replace('11', '50')}</object>", "box-degenerate", "object 1"),  # xmin > xmax
        (f"<object><name>dog</name>{BOX.replace('40', '4000')}</object>", "box-outside", "leaves its image"),
        (f"<object><name>dog</name>{BOX.replace('40', 'nan')}</object>", "box-not-finite", "NaN"),
        (f"<object><name>dog</name>{BOX.replace('40', '40,5')}</object>", "box-malformed", "xmax='40,5'"),
        ("<object><name>dog</name></object>", "box-malformed", "xmin=''"),
        (f"<object><name>dog</name><part>{BOX}</part></object>", "box-malformed", "xmin=''"),
        (f"<object>{BOX}</object>", "object-name", "no readable class name"),
        (f"<object><name>dog</name><difficult>yes</difficult>{BOX}</object>", "object-difficult", "got 'yes'"),
    ],
    ids=lambda value: value if "<" not in value else "",
)
def test_a_broken_object_is_one_error_with_file_and_number(
    tmp_path: Path, objects: str, code: str, message: str
) -> None:
    table, log = read_table(write_voc(tmp_path, objects))
    assert codes(log) == [code]
    text = str(log.problems[0])
    assert message in text and "one.xml, object 1" in text
    assert table.ids == ["one", "two"] and len(table.boxes) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;&x;">]><annotation>&z;</annotation>', "DTD or entities"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "DTD or entities"),
        ("<annotation><object>", "not valid XML"),
        ("", "not valid XML"),
        ("<?xml version='1.0' encoding='klingon'?><annotation/>", "cannot be read|not valid XML"),
    ],
    ids=["bomb", "external", "truncated", "empty", "encoding"],
)  # fmt: skip
def test_dangerous_or_broken_xml_costs_only_its_image(tmp_path: Path, text: str, message: str) -> None:
    folder = write_voc(tmp_path)
    (folder / "Annotations" / "one.xml").write_text(text)
    table, log = read_table(folder)
    assert codes(log) == ["xml"] and table.ids == ["two"]
    assert any(part in str(log.problems[0]) for part in message.split("|"))


def test_the_declared_size_must_be_the_images(tmp_path: Path) -> None:
    _, log = read_table(write_voc(tmp_path, size=SIZE.replace("100", "200")))
    assert codes(log) == ["image-size"] and "200 x 80" in str(log.problems[0])
    for size in ("", SIZE.replace("100", "0").replace("80", "0")):  # annotation tools write both
        assert not read_table(write_voc(tmp_path, size=size))[1].problems


def test_images_and_xml_without_each_other_are_reported(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    (folder / "JPEGImages" / "one.jpg").rename(folder / "JPEGImages" / "three.jpg")
    table, log = read_table(folder)
    assert codes(log) == ["image-missing"] and codes(log, "warning") == ["image-unannotated"]
    assert table.ids == ["two"]


def test_a_folder_without_xml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no XML files there"):
        read_table(tmp_path, format="voc")
