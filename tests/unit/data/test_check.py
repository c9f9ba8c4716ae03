from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from raydet.config.box_data import DataConfig, DatasetConfig
from raydet.data.boxes.fix import fix_dataset
from raydet.data.check import CheckReport, format_report
from raydet.errors import DataError, UserError
from raydet.families.detection.data import BOXES
from tests.helpers import data_folder
from tests.tiny_data import coco_content, read_table, write_coco, write_image


def codes(report: CheckReport) -> dict[str, int]:
    return {code: count for (_, code), count in sorted(report.counts.items())}


def dataset(path: Path, **other: Any) -> DatasetConfig:
    return DatasetConfig(path=str(path), **other)


def broken(folder: Path) -> Path:
    """Eight things wrong in one data set, with two good boxes (annotations 3 and 8) left."""
    content = coco_content()
    boxes = content["annotations"]
    boxes[0]["bbox"] = [90, 70, 30, 30]  # leaves the image
    boxes[1]["bbox"] = [1, 1, 0, 1]  # no area
    boxes += [
        {**boxes[2], "id": 4, "category_id": 99},
        {**boxes[2], "id": 5, "image_id": 99},
        {**boxes[2], "id": 6, "bbox": [1, 2, 3]},
        {**boxes[2], "id": 7, "bbox": [1, 1, float("nan"), 1]},
        {**boxes[2], "id": 8, "image_id": 3},
        {**boxes[2], "id": 9, "image_id": 3, "bbox": [95, 1, 10, 10]},  # 5 pixels of it outside
    ]
    content["images"] += [
        {"id": 3, "file_name": "c.jpg", "width": 100, "height": 80},
        {"id": 10, "file_name": "cut.png", "width": 100, "height": 80},
        {"id": 11, "file_name": "../out.jpg", "width": 100, "height": 80},
    ]
    file = write_coco(folder, content)
    write_image(folder / "c.jpg", value=8)
    whole = write_image(folder / "cut.png", value=9).read_bytes()
    (folder / "cut.png").write_bytes(whole[:500] + bytes(100) + whole[600:])  # its header and its end are fine
    return file


def test_everything_wrong_is_found_at_once(tmp_path: Path) -> None:
    report = BOXES.check_one(dataset(broken(tmp_path)))
    assert codes(report) == {
        "annotation-category-unknown": 1,
        "annotation-image-unknown": 1,
        "box-degenerate": 1,
        "box-malformed": 1,
        "box-not-finite": 1,
        "box-outside": 2,
        "file-name": 1,
        "image-unreadable": 1,  # cut.png
    }
    assert report.num_errors == 9 and report.num_warnings == 0
    assert all(problem.fix or ";" in problem.message for problem in report.problems)
    quick = BOXES.check_one(dataset(broken(tmp_path)), decode_images=False)
    assert "image-unreadable" not in codes(quick) and quick.num_errors == 8


def test_one_error_is_in_the_singular(tmp_path: Path) -> None:
    text = format_report(BOXES.check_one(dataset(tmp_path / "none.json")))
    assert text.startswith("1 error:\n") and "no such file" in text


def test_check_and_prepare_give_the_same_verdict(tmp_path: Path) -> None:
    report = BOXES.check_one(dataset(broken(tmp_path)), decode_images=False)
    with pytest.raises(DataError) as caught:
        BOXES.prepare(DataConfig(labeled=dataset(tmp_path / "data.json")), tmp_path / "run")
    assert "8 errors" in str(caught.value)
    for problem in report.problems:
        assert str(problem) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "images", "boxes", "crowd"), [("bccd", 205, 2804, 0), ("cards", 251, 445, 0), ("coco_cc", 56, 559, 6)]
)
def test_real_data_are_clean_and_counted(name: str, images: int, boxes: int, crowd: int) -> None:
    file = data_folder(name) / "annotations" / "train.json"
    report = BOXES.check_one(dataset(file))
    assert report.num_errors == 0 and report.num_warnings == 0
    (summary,) = report.sets
    assert (summary.images, summary.boxes, summary.crowd_boxes) == (images, boxes, crowd)
    assert sum(summary.boxes_per_class.values()) == boxes == sum(summary.box_sizes)
    assert summary.images_without_boxes == (2 if name == "coco_cc" else 0)
    coco = COCO(str(file))
    small = len(coco.getAnnIds(areaRng=[-1, 32**2], iscrowd=False))
    assert summary.box_sizes[0] == small


def test_the_report_reads_well_and_is_capped(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"] += [{**content["annotations"][0], "id": n, "bbox": [1, 1, 0, 1]} for n in range(100, 422)]
    report = BOXES.check_one(dataset(write_coco(tmp_path, content)))
    assert format_report(report).splitlines() == [
        f"data: {tmp_path}/data.json (read as coco)",
        "  2 images, 0 of them without boxes; sides 80 to 100 pixels, median 100",
        "  3 boxes (2 small, 1 medium, 0 large), 0 crowd; at most 2 in one image",
        "  boxes: cat 2, dog 1",
        "322 errors:",
        *(
            f"  [box-degenerate] {tmp_path}/data.json, annotation id {n} (image id 1): "
            "the box x 1 to 1, y 1 to 2 has no area: width and height must be above 0 (image: 100 x 80 pixels); "
            "correct it, or set on_bad_box: drop"
            for n in range(100, 110)
        ),
        "  [box-degenerate] ... and 312 more",
    ]
    good = BOXES.check_one(dataset(write_coco(tmp_path / "good")))
    assert format_report(good).splitlines()[-1] == "no errors: this data can be used"


def test_a_set_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    write_image(tmp_path / "more" / "x.jpg", value=5)
    config = DataConfig.model_validate(
        {
            "labeled": str(broken(tmp_path / "data")),
            "val": str(tmp_path / "none.json"),
            "unlabeled": str(tmp_path / "more"),
        }
    )
    report = BOXES.check(config)
    assert codes(report)["data-set"] == 1 and report.num_errors == 10
    assert [summary.name for summary in report.sets] == ["labeled", "unlabeled"]
    assert "none.json: no such file or folder" in format_report(report)


def test_relations_between_sets_are_checked(tmp_path: Path) -> None:
    labeled = write_coco(tmp_path / "data")
    content = coco_content()
    content["categories"][0]["name"] = "Dog"
    val = write_coco(tmp_path / "val", content)
    config = DataConfig.model_validate({"labeled": str(labeled), "val": str(val), "labeled_count": 3})
    assert codes(BOXES.check(config)) == {"class-empty": 1, "class-unknown": 1, "image-in-two-sets": 2, "split": 1}


def test_warnings_are_counted_by_code_and_pair_of_sets(tmp_path: Path) -> None:
    """What is not listed may be between other sets than what is."""
    labeled = write_coco(tmp_path / "data")
    for number in range(12):
        write_image(tmp_path / "more" / f"{number}.jpg", value=number)  # 0 and 1 are those of `data`
    content = coco_content()
    content["images"][0]["file_name"], content["images"][1]["file_name"] = "2.jpg", "3.jpg"
    val = tmp_path / "more" / "val.json"
    val.write_text(json.dumps(content))
    sets = {"labeled": str(labeled), "unlabeled": f"{tmp_path}/more/*.jpg", "val": str(val)}
    report = BOXES.check(DataConfig.model_validate(sets))
    assert report.shared == {("labeled", "unlabeled"): 2, ("unlabeled", "val"): 2}
    assert format_report(report, per_code=1).splitlines()[-3:] == [
        "  [image-in-two-sets] ... and 3 more",
        "warnings in all: 4 image-in-two-sets (2 in labeled and unlabeled, 2 in unlabeled and val)",
        "no errors: this data can be used",
    ]


def test_the_same_picture_twice_in_one_set_is_mentioned(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    report = BOXES.check_one(dataset(file))
    assert codes(report) == {"image-twice": 1}


def test_pictures_of_equal_size_and_beginning_are_told_apart(tmp_path: Path) -> None:
    file = write_coco(tmp_path, {**coco_content(), "images": [{"id": n, "file_name": f"{n}.bmp"} for n in range(1, 5)]})
    whole = write_image(tmp_path / "1.bmp").read_bytes()  # 24 kB without compression
    for n, last in ((2, b"x"), (3, b"y"), (4, b"x")):
        (tmp_path / f"{n}.bmp").write_bytes(whole[:-1] + last)
    report = BOXES.check_one(dataset(file))
    assert [problem.where for problem in report.problems] == ["image id 4"]
    assert f"the same picture is image id 2, {tmp_path / '2.bmp'}" in str(report.problems[0])


# --- fix --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "boxes"),
    [("drop", [[5.5, 6.5, 15.5, 16.5]]), ("clip", [[90, 70, 100, 80], [5.5, 6.5, 15.5, 16.5], [95, 1, 100, 11]])],
)
def test_a_fixed_copy_is_clean_and_the_original_untouched(
    tmp_path: Path, policy: Any, boxes: list[list[float]]
) -> None:
    file = broken(tmp_path / "data")
    before = file.read_bytes()
    out = tmp_path / "out" / "fixed.json"
    result = fix_dataset(dataset(file), policy, out)
    assert (result.file, result.images) == (out, tmp_path / "data")
    # left out; dropped or clipped: four boxes, and once that images are left out
    assert result.report.num_errors == 5 and result.report.num_warnings == 5
    assert file.read_bytes() == before
    report = BOXES.check_one(dataset(out, images=str(result.images)))
    assert report.num_errors == report.num_warnings == 0
    table, _ = read_table(out, images=str(result.images))
    # annotations of b.jpg could not be read; with "drop" a.jpg has lost all its boxes
    assert table.boxes.tolist() == boxes and table.files == (["c.jpg"] if policy == "drop" else ["a.jpg", "c.jpg"])
    assert len(COCO(str(out)).anns) == len(boxes)
    with pytest.raises(DataError, match="exists already and is not overwritten"):
        fix_dataset(dataset(file), policy, out)
    with pytest.raises(DataError, match="exists already"):
        fix_dataset(dataset(file), policy, file)


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("{file}/fixed.json", "{file}: lies below a file; choose a folder"),
        ("/proc/new/fixed.json", "/proc: nothing can be written there (No such file or directory); choose another"),
    ],
)
def test_a_copy_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path, out: str, why: str) -> None:
    (tmp_path / "file").touch()
    where = out.format(file=tmp_path / "file")
    with pytest.raises(UserError) as error:
        fix_dataset(dataset(tmp_path / "nowhere.json"), "drop", Path(where))
    assert str(error.value) == f"--out {where}: {why.format(file=tmp_path / 'file')}"


def test_what_could_not_be_read_is_not_written_as_background(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"][0]["iscrowd"] = "Unspecified"  # image 1 keeps a box, but not all that is on it
    result = fix_dataset(dataset(write_coco(tmp_path, content)), "drop", tmp_path / "fixed.json")
    table, _ = read_table(result.file, images=str(result.images))
    assert table.files == ["b.jpg"] and table.boxes.tolist() == [[5.5, 6.5, 15.5, 16.5]]
    assert "1 image with annotations that could not be used is left out" in format_report(result.report)


def test_masks_are_left_out_with_a_word(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"][0]["segmentation"] = [[10, 20, 40, 20, 40, 60]]
    content["annotations"][1]["segmentation"] = []  # none
    result = fix_dataset(dataset(write_coco(tmp_path, content)), "drop", tmp_path / "fixed.json")
    assert result.report.counts == {("warning", "masks-left-out"): 1}
    assert "1 mask is not written (segmentation): the copy has boxes alone" in format_report(result.report)


def test_a_file_that_would_be_refused_is_not_written(tmp_path: Path) -> None:
    content = coco_content()
    content["categories"][0]["name"] = "cat"  # as the other one, and both have boxes
    with pytest.raises(DataError, match="two categories are called 'cat'"):
        fix_dataset(dataset(write_coco(tmp_path, content)), "drop", tmp_path / "fixed.json")
    assert not (tmp_path / "fixed.json").exists()


def test_misread_boxes_are_not_fixed_by_dropping_them(tmp_path: Path) -> None:
    content = coco_content()
    for entry in content["annotations"]:
        entry["bbox"] = [0.1, 0.2, 0.5, 0.5]
    with pytest.raises(DataError, match="look like fractions of the image"):
        fix_dataset(dataset(write_coco(tmp_path, content)), "drop", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_fixing_clean_real_data_changes_no_box(tmp_path: Path) -> None:
    file = data_folder("coco_cc") / "annotations" / "val.json"
    result = fix_dataset(dataset(file), "clip", tmp_path / "out.json")
    before, _ = read_table(file)
    after, _ = read_table(tmp_path / "out.json", images=str(result.images))
    assert after.class_names == before.class_names and after.files == before.files
    assert abs(after.boxes - before.boxes).max() < 1e-9  # width = x2 - x1 rounds in the last bits
    assert after.classes.tolist() == before.classes.tolist() and after.crowd.tolist() == before.crowd.tolist()
    assert after.areas.tolist() == before.areas.tolist()
    assert json.loads((tmp_path / "out.json").read_text()).keys() == {"images", "annotations", "categories"}
