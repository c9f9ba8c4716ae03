from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from raydet.errors import DataError
from tests.tiny_data import codes, read_table, write_image

YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"


def write_yolo(folder: Path, label: str = "1 0.5 0.5 0.2 0.5\n", yaml: str = YAML) -> Path:
    """Train image `a` of 100 x 80 with `label`, train image `b` without labels, val image `c` with a cat."""
    for number, name in enumerate(("train/a", "train/b", "val/c")):
        write_image(folder / "images" / f"{name}.jpg", value=number)
        (folder / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "labels/train/a.txt").write_text(label)
    (folder / "labels/train/b.txt").write_text("")
    (folder / "labels/val/c.txt").write_text("0 0.5 0.5 1 1\n")
    (folder / "data.yaml").write_text(yaml)
    return folder


def test_a_data_yaml_is_read_one_set_at_a_time(tmp_path: Path) -> None:
    table, log = read_table(write_yolo(tmp_path), subset="train")
    assert not log.problems
    assert table.class_names == ("cat", "dog")
    assert table.ids == table.files == ["images/train/a.jpg", "images/train/b.jpg"]
    # centre (50, 40), 20 x 40 pixels of 100 x 80
    assert table.boxes.tolist() == [[40, 20, 60, 60]] and table.classes.tolist() == [1]
    assert table.areas.tolist() == [800]
    assert table.first.tolist() == [0, 1, 1]
    table, _ = read_table(tmp_path / "data.yaml", subset="val")
    assert table.boxes.tolist() == [[0, 0, 100, 80]]


def test_fractions_are_of_the_turned_picture(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(folder / "images/train/a.jpg", exif=exif)
    table, log = read_table(folder, subset="train")
    assert not log.problems
    assert table.sizes[0].tolist() == [100, 80]
    assert table.boxes[0].tolist() == [32, 25, 48, 75]  # centre (40, 50), 16 x 50 pixels of 80 x 100


def test_which_set_must_be_clear(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    with pytest.raises(DataError, match="several sets .there: train, val.; set `subset`"):
        read_table(folder)
    with pytest.raises(DataError, match="no `test` .there: train, val"):
        read_table(folder, subset="test")
    only = write_yolo(tmp_path / "only", yaml="train: images/train\nnames: {0: cat, 1: dog}\n")
    assert len(read_table(only)[0]) == 2


@pytest.mark.parametrize(
    "line",
    ["1 0.5 0.5 0.2 0.5", "1.0 0.5 0.5 0.2 0.5", "\ufeff1\t0.5  0.5 0.2 0.5", "\n1 0.5 0.5 0.2 0.5\n\n"],
)
def test_harmless_variants_of_a_line_are_read(tmp_path: Path, line: str) -> None:
    table, log = read_table(write_yolo(tmp_path, line), subset="train")
    assert not log.problems and table.boxes.tolist() == [[40, 20, 60, 60]]


@pytest.mark.parametrize("row", ["1 0.4 0.25 0.6 0.25 0.5 0.75", "1 0.4 0.25 0.6 0.25 0.6 0.75 0.4 0.75"])
def test_of_a_polygon_the_box_around_it_is_used(tmp_path: Path, row: str) -> None:
    table, log = read_table(write_yolo(tmp_path, row), subset="train")
    assert codes(log) == [] and codes(log, "warning") == ["label-polygons"]
    assert table.boxes.tolist() == [[40, 20, 60, 60]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.2 0.5", "class must be a whole number from 0 to 1"),
        ("-1 0.5 0.5 0.2 0.5", "class must be a whole number from 0 to 1"),
        ("0.5 0.5 0.5 0.2 0.5", "class must be a whole number"),
        ("nan 0.5 0.5 0.2 0.5", "class must be a whole number"),
        ("1 0.5 0.5 0.2 0.5 0.9", "6 columns: this looks like a detection with a score"),
        ("1 0,5 0,5 0,2 0,5", "write decimal points"),
        ("1,0.5,0.5,0.2,0.5", "spaces between numbers"),
        ("dog 0.5 0.5 0.2 0.5", "not only numbers"),
        ("1 0.5 0.5", "3 columns"),
        ("1 0.5 0.5 0.2 0.5 0.1 0.1 0.1", "8 columns"),
        ("1 50 40 20 40", "are these pixels?"),
    ],
)
def test_a_broken_line_is_one_error_with_file_and_number(tmp_path: Path, line: str, message: str) -> None:
    table, log = read_table(write_yolo(tmp_path, f"0 0.5 0.5 1 1\n{line}\n"), subset="train")
    assert codes(log) == ["label-line"]
    text = str(log.problems[0])
    assert message in text and "labels/train/a.txt, line 2" in text
    assert len(table.boxes) == 1


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("1 0.5 0.5 0 0.5", "box-degenerate"),
        ("1 nan 0.5 0.2 0.5", "box-not-finite"),
        ("1 0.9 0.5 0.5 0.5", "box-outside"),
    ],
)
def test_bad_boxes_meet_the_common_rules(tmp_path: Path, line: str, code: str) -> None:
    _, log = read_table(write_yolo(tmp_path, line), subset="train")
    assert codes(log) == [code] and "a.txt, line 1" in str(log.problems[0])


def test_a_missing_label_file_means_no_boxes_and_is_mentioned(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    (folder / "labels/train/b.txt").unlink()
    table, log = read_table(folder, subset="train")
    assert len(table) == 2 and codes(log) == [] and codes(log, "warning") == ["label-file-missing"]
    assert "1 image has no label file" in str(log.problems[0])


def test_without_a_yaml_classes_txt_names_the_classes(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    (folder / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"no data\.yaml and no classes\.txt"):
        read_table(folder)
    (folder / "classes.txt").write_text("cat\ndog\n")
    table, log = read_table(folder, subset="train")
    assert not log.problems and table.class_names == ("cat", "dog") and len(table) == 2
    assert len(read_table(folder)[0]) == 3
    for subset in ("nothing", "../../.."):
        with pytest.raises(DataError, match="no such folder inside .*correct `subset`"):
            read_table(folder, subset=subset)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images/train\n", "expected a mapping with `names`"),
        ("- a\n", "expected a mapping"),
        ("names: [cat]\n", "several sets|no .*there: none|there: none"),
        ("train: images/train\nnames: [cat, cat]\n", "two classes are called 'cat'"),
        ("train: images/train\nnames: [cat, '']\n", "and not empty"),
        ("train: images/train\nnames: {0: cat, 2: dog}\n", "numbered 0 to 1 without gaps"),
        ("train: images/train\nnames: cat\n", "must be a list of class names"),
        ("train: images/train\nnames: [cat, dog]\nnc: 3\n", "nc is 3, but there are 2 names"),
        ("train: images/nothing\nnames: [cat, dog]\n", "no such folder or list"),
        ("train: /etc\nnames: [cat, dog]\n", "is outside"),
        ("train: ../../..\nnames: [cat, dog]\n", "is outside"),
        ("path: /etc\ntrain: images\nnames: [cat, dog]\n", "path: /etc` is not a folder inside"),
        ("train: 5\nnames: [cat, dog]\n", "must be a folder, a .txt list"),
        ("train: &a images/train\nval: *a\nnames: [cat]\n", "aliases"),
        ("train: !!python/object:os.system x\nnames: [cat]\n", "not valid YAML"),
        ("train: [\n", "not valid YAML"),
        ("train: " + "[" * 5000, "nested too deeply|not valid YAML"),
    ],
)
def test_a_broken_yaml_is_one_message_with_its_file(tmp_path: Path, yaml: str, message: str) -> None:
    folder = write_yolo(tmp_path, yaml=yaml)
    with pytest.raises(DataError, match=message) as caught:
        read_table(folder)
    assert "data.yaml" in str(caught.value)


def test_lists_and_roboflow_paths_are_understood(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, yaml="train: [train.txt, images/val]\nnames: [cat, dog]\n")
    (folder / "train.txt").write_text("./images/train/a.jpg\nimages/train/b.jpg\n")
    assert read_table(folder)[0].ids == ["images/train/a.jpg", "images/train/b.jpg", "images/val/c.jpg"]
    (folder / "data.yaml").write_text("train: ../images/train\nnames: [cat, dog]\n")
    assert len(read_table(folder)[0]) == 2


def test_a_list_cannot_name_files_outside(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "data", yaml="train: train.txt\nnames: [cat, dog]\n")
    write_image(tmp_path / "x.jpg")
    (tmp_path / "x.txt").write_text("not to be read")
    (folder / "train.txt").write_text("images/train/a.jpg\n../x.jpg\n/etc/passwd\n")
    table, log = read_table(folder)
    assert codes(log) == ["file-name", "file-name"] and table.ids == ["images/train/a.jpg"]
    (folder / "train.txt").write_text("images/train/a.jpg\n")
    (folder / "labels/train/a.txt").unlink()
    (folder / "labels/train/a.txt").symlink_to(tmp_path / "x.txt")
    _, log = read_table(folder)
    assert codes(log) == ["label-file"] and "symlink out of the image root" in str(log.problems[0])


def test_images_may_lie_elsewhere_if_the_user_says_so(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "data")
    (tmp_path / "yaml").mkdir()
    yaml = tmp_path / "yaml" / "my.yaml"
    yaml.write_text("path: /somewhere/else\n" + YAML)
    table, log = read_table(yaml, subset="train", images=str(folder))
    assert not log.problems and len(table.boxes) == 1
