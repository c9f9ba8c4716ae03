"""Where images lie: the reason for a refusal is the rule's own, and what it advises works."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.config.box_data import DatasetConfig
from raydet.data.check import format_report
from raydet.errors import DataError
from raydet.families.detection.data import BOXES
from tests.tiny_data import coco_content, codes, read_table, write_coco, write_image
from tests.unit.data.boxes.test_voc import write_voc
from tests.unit.data.boxes.test_yolo import write_yolo


def named(first: str, second: str = "b.jpg") -> dict[str, list[dict[str, object]]]:
    """The valid content with other file names."""
    content = coco_content()
    content["images"][0]["file_name"], content["images"][1]["file_name"] = first, second
    return content


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("images\\a.jpg", "contains a backslash; write / between folders"),
        ("https://host/a.jpg", "is a URL; download the image"),
        ("/home/u/a.jpg", "is absolute; names are relative"),
        ("C:/a.jpg", "is absolute"),
        ("../a.jpg", "contains '..'"),
    ],
)
@pytest.mark.parametrize("others", [True, False])
def test_a_refused_name_says_its_own_reason(tmp_path: Path, name: str, reason: str, others: bool) -> None:
    table, log = read_table(write_coco(tmp_path, named(name, "b.jpg" if others else name)))
    assert codes(log) == ["file-name"] * (1 if others else 2) and reason in str(log.problems[0])
    assert table.files == (["b.jpg"] if others else [])


@pytest.mark.parametrize(
    ("listed", "there", "differs"),
    [
        ("Zelle_gr\u00fcn.jpg", "Zelle_gru\u0308n.jpg", "in its Unicode form"),
        ("im%201.jpg", "im 1.jpg", "%20 is a space"),
        ("A.JPG", "a.jpg", "in upper and lower case"),
        ("Photos/a.jpg", "photos/a.jpg", "in upper and lower case"),
        ("a.png", "a.jpg", "in its ending"),
    ],
)
def test_the_look_alike_of_a_missing_image_is_named(tmp_path: Path, listed: str, there: str, differs: str) -> None:
    file = write_coco(tmp_path, named(listed))
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / "a.jpg").rename(tmp_path / there)
    _, log = read_table(file)
    text = str(log.problems[0])
    assert codes(log) == ["image-missing"] and repr(there) in text and differs in text
    (tmp_path / "b.jpg").unlink()  # now none is there, and not even the root is known
    with pytest.raises(DataError) as caught:
        read_table(file)
    assert repr(there) in str(caught.value) and differs in str(caught.value)
    write_coco(tmp_path, named(there))  # the advice: correct the name
    (tmp_path / "a.jpg").unlink(missing_ok=there != "a.jpg")
    write_image(tmp_path / there)
    assert codes(read_table(file)[1]) == []


def test_a_missing_first_image_does_not_hide_where_the_others_are(tmp_path: Path) -> None:
    table, log = read_table(write_coco(tmp_path, named("gone.jpg")))
    assert codes(log) == ["image-missing"] and table.files == ["b.jpg"]


# --- symlinks ---------------------------------------------------------------------------------------------------------


def test_symlinked_images_of_yolo_are_named_and_all_advice_works(tmp_path: Path) -> None:
    task = write_yolo(tmp_path / "task")
    (task / "images").rename(tmp_path / "photos")
    (task / "images").symlink_to(tmp_path / "photos")
    with pytest.raises(DataError) as caught:
        read_table(task, subset="train")
    assert f"leads out of {task} by a symlink, to {tmp_path}/photos/train" in str(caught.value)
    assert f"set `images` to a folder that holds both, such as {tmp_path}, or copy" in str(caught.value)
    for images in (tmp_path, tmp_path / "photos"):
        table, log = read_table(task, subset="train", images=str(images))
        assert not log.problems and table.boxes.tolist() == [[40, 20, 60, 60]] and table.root == images
        assert table.ids == ["images/train/a.jpg", "images/train/b.jpg"]
    with pytest.raises(DataError, match="by a symlink"):
        read_table(task, subset="train", images=str(task))


def test_symlinked_images_of_voc_are_named_and_the_advice_works(tmp_path: Path) -> None:
    task = write_voc(tmp_path / "task")
    (task / "JPEGImages").rename(tmp_path / "photos")
    (task / "JPEGImages").symlink_to(tmp_path / "photos")
    with pytest.raises(
        DataError, match=f"leads out of {task}, to {tmp_path}/photos; set `images` .* {tmp_path}, or copy"
    ):
        read_table(task)
    table, log = read_table(task, images=str(tmp_path))
    assert not log.problems and table.files == ["photos/one.jpg", "photos/two.png"]
    assert read_table(task, images=str(tmp_path / "photos"))[0].files == ["one.jpg", "two.png"]


def test_symlinked_images_of_coco_are_named_and_the_advice_works(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "task", named("images/a.jpg", "images/b.jpg"))
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "task" / name).rename(tmp_path / "photos" / name)
    (tmp_path / "task" / "images").symlink_to(tmp_path / "photos")
    with pytest.raises(DataError) as caught:
        read_table(file)
    assert (
        f"a symlink out of the image root {tmp_path}/task; set `images` to a folder that holds both, such as {tmp_path}"
        in str(caught.value)
    )
    for images in (tmp_path, tmp_path / "photos"):
        table, log = read_table(file, images=str(images))
        assert not log.problems and len(table.boxes) == 3 and table.root == images


def test_symlinked_pictures_of_a_folder_are_named_and_the_advice_works(tmp_path: Path) -> None:
    write_image(tmp_path / "store" / "a.jpg")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.jpg").symlink_to(tmp_path / "store" / "a.jpg")
    report = BOXES.check_one(DatasetConfig(path=str(tmp_path / "photos")))
    assert f"set `images` to a folder that holds both, such as {tmp_path}" in format_report(report)
    table, log = read_table(tmp_path / "photos", images=str(tmp_path), format="folder")
    assert not log.problems and table.files == ["store/a.jpg"] and table.ids == ["x.jpg"]


def test_nothing_outside_of_images_is_read_all_the_same(tmp_path: Path) -> None:
    task = write_yolo(tmp_path / "inner" / "task")
    write_image(tmp_path / "secret.jpg")
    (task / "images/train/s.jpg").symlink_to(tmp_path / "secret.jpg")
    table, log = read_table(task, subset="train", images=str(tmp_path / "inner"))
    assert [code for code in codes(log) if code != "image-missing"] in ([], ["file-name"]) and log.num_errors == 1
    assert "images/train/s.jpg" not in table.ids


def test_images_outside_of_the_yaml_are_refused_and_the_advice_works(tmp_path: Path) -> None:
    write_yolo(tmp_path / "store")
    (tmp_path / "task").mkdir()
    for entry in ("../store/images/train", f"{tmp_path}/store/images/train"):
        (tmp_path / "task" / "data.yaml").write_text(f"train: {entry}\nnames: [cat, dog]\n")
        with pytest.raises(DataError, match="is outside .*; set `images` to a folder that holds all images and labels"):
            read_table(tmp_path / "task")
        table, log = read_table(tmp_path / "task", images=str(tmp_path))
        assert not log.problems and table.files == ["store/images/train/a.jpg", "store/images/train/b.jpg"]
        assert len(table.boxes) == 1
        with pytest.raises(DataError, match="is outside|no such folder"):
            read_table(tmp_path / "task", images=str(tmp_path / "task"))


def test_a_root_that_is_not_there_is_refused_and_both_advices_work(tmp_path: Path) -> None:
    yaml = "train: images/train\nnames: [cat, dog]\n"
    folder = write_yolo(tmp_path / "data", yaml=f"path: /somebody/elses/disk\n{yaml}")
    with pytest.raises(DataError, match="is not a folder inside .*; remove it, or set `images` to the data set's root"):
        read_table(folder)
    assert len(read_table(folder, images=str(folder))[0].boxes) == 1
    (folder / "data.yaml").write_text(yaml)
    assert len(read_table(folder)[0].boxes) == 1


def test_a_json_whose_images_lie_in_another_folder_is_refused_and_the_advice_works(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "data")
    (tmp_path / "data" / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "data" / name).rename(tmp_path / "data" / "photos" / name)
    with pytest.raises(DataError, match=f"it is in {tmp_path}/data/photos: set `images: {tmp_path}/data/photos`"):
        read_table(file)
    assert not read_table(file, images=f"{tmp_path}/data/photos")[1].problems


def test_a_symlinked_folder_is_told_and_both_advices_work(tmp_path: Path) -> None:
    write_image(tmp_path / "store" / "a.jpg")
    write_image(tmp_path / "photos" / "b.jpg", value=1)
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "store")
    table, log = read_table(tmp_path / "photos")
    assert table.files == ["b.jpg"] and "name its target as the data set, or copy it" in str(log.problems[0])
    assert read_table(tmp_path / "store")[0].files == ["a.jpg"]
    (tmp_path / "photos" / "more").unlink()
    write_image(tmp_path / "photos" / "more" / "a.jpg")
    assert read_table(tmp_path / "photos")[0].files == ["b.jpg", "more/a.jpg"]


# --- darknet ----------------------------------------------------------------------------------------------------------


def test_darknet_is_read_where_it_lies(tmp_path: Path) -> None:
    write_image(tmp_path / "obj_train_data" / "a.jpg")
    (tmp_path / "obj_train_data" / "a.txt").write_text("1 0.5 0.5 0.2 0.5\n")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "train.txt").write_text("data/obj_train_data/a.jpg\n")
    (tmp_path / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    for path in (tmp_path, tmp_path / "obj.data"):
        table, log = read_table(path)
        assert not log.problems and table.class_names == ("cat", "dog") and table.ids == ["obj_train_data/a.jpg"]
        assert table.boxes.tolist() == [[40, 20, 60, 60]] and table.classes.tolist() == [1]
    (tmp_path / "train.txt").write_text(
        "data/obj_train_data/a.jpg\ndata/obj_train_data/gone.jpg\n/etc/passwd\n../x.jpg\n"
    )
    _, log = read_table(tmp_path)
    assert sorted(codes(log)) == ["file-name", "file-name", "image-missing"]
    (tmp_path / "obj.names").unlink()
    with pytest.raises(DataError, match="no file data/obj.names with the names of the classes"):
        read_table(tmp_path)
