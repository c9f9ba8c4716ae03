from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from raydet.errors import DataError
from tests.helpers import data_folder
from tests.tiny_data import changed, coco_content, codes, read_table, text_of, write_coco

LARGE = 10**6


def test_a_valid_file_is_read_as_it_stands(tmp_path: Path) -> None:
    table, log = read_table(write_coco(tmp_path))
    assert not log.problems
    assert table.class_names == ("cat", "dog")  # category ids 3 and 7, in this order
    assert table.ids == ["1", "2"] and table.files == ["a.jpg", "b.jpg"]
    assert table.sizes.tolist() == [[80, 100], [80, 100]]
    assert table.first.tolist() == [0, 2, 3]
    # x, y, width, height -> x, y, x + width, y + height
    assert table.boxes.tolist() == [[10, 20, 40, 60], [0, 0, 50, 60], [5.5, 6.5, 15.5, 16.5]]
    assert table.classes.tolist() == [0, 1, 0]
    assert table.areas.tolist() == [900.0, 3000.0, 100.0]


@pytest.mark.parametrize("name", ["bccd", "cards", "coco_cc"])
def test_real_files_agree_with_pycocotools(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = data_folder(name) / "annotations" / "train.json"
    table, log = read_table(file)
    coco = COCO(str(file))
    capsys.readouterr()
    assert not log.num_errors
    assert table.class_names == tuple(coco.cats[key]["name"] for key in sorted(coco.cats))
    numbers = {key: number for number, key in enumerate(sorted(coco.cats))}
    for row, image_id in enumerate(table.ids):
        own = slice(table.first[row], table.first[row + 1])
        annotations = coco.loadAnns(coco.getAnnIds(int(image_id)))
        expected = [
            [x, y, min(x + w, table.sizes[row, 1]), min(y + h, table.sizes[row, 0])]
            for x, y, w, h in (entry["bbox"] for entry in annotations)
        ]
        assert table.boxes[own].tolist() == expected
        assert table.classes[own].tolist() == [numbers[entry["category_id"]] for entry in annotations]
        assert table.crowd[own].tolist() == [bool(entry["iscrowd"]) for entry in annotations]
        assert table.areas[own].tolist() == [entry["area"] for entry in annotations]


# --- the file as a whole ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_called_that(tmp_path: Path, cut: float) -> None:
    text = json.dumps(coco_content())
    with pytest.raises(DataError, match=r"data\.json: not valid JSON at line 1, character \d+.*cut off"):
        read_table(write_coco(tmp_path, text[: int(len(text) * cut)]))


def test_a_syntax_error_has_its_place(tmp_path: Path) -> None:
    text = '{"images": [],\n "annotations": [{"id": 1,,}],\n "categories": []}'
    with pytest.raises(DataError, match="line 2, character 41: Expecting property name"):
        read_table(write_coco(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the top level is empty"),
        ("[]", "the top level is a list; expected a JSON object with images, annotations and categories"),
        ("hello", "starts with 'h'"),
        ("{}", "no key 'images'"),
        ('{"annotations": [], "categories": []}', "no key 'images' .found: annotations, categories"),
        ('{"images": {}}', "'images' must be a list"),
        ('{"images": [], "images": []}', "the key 'images' is given twice"),
        ('{"images": []} {}', "text after the end"),
        ('{"info": ' + "[" * 10**5 + "}", "nested too deeply|not valid JSON"),
        ('{"info": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"images" []}', "expected ':'"),
        ('{"images": [1 2]}', "expected ',' or ']'"),
        ("{3: 4}", "expected a quoted key|Expecting"),
    ],
    ids=lambda value: value[:25],
)  # fmt: skip
def test_what_is_no_coco_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write_coco(tmp_path, text), format="coco")


def test_a_utf8_bom_is_accepted_and_utf16_refused(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    text = file.read_text()
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(read_table(file)[0]) == 2
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        file.write_bytes(text.encode(encoding))
        with pytest.raises(DataError, match="UTF-16 or UTF-32.*save it as UTF-8"):
            read_table(file)
    file.write_bytes(text.replace("cat", "caf\u00e9").encode("latin-1"))
    with pytest.raises(DataError, match="not valid UTF-8"):
        read_table(file)


def test_entries_larger_than_the_reading_window_are_whole(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"][1]["segmentation"] = [[1.25] * 400_000]  # 2.4 MB, the window is 1 MiB
    content["annotations"][2]["caption"] = "\u20ac" * LARGE  # characters of three bytes across window borders
    file = write_coco(tmp_path)
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    table, log = read_table(file)
    assert table.boxes.shape == (3, 4) and not log.problems


def test_missing_keys_besides_images_leave_images_without_boxes(tmp_path: Path) -> None:
    content = {"images": coco_content()["images"]}
    table, log = read_table(write_coco(tmp_path, content))
    assert len(table) == 2 and len(table.boxes) == 0
    assert codes(log, "warning") == ["key-missing", "key-missing"]


# --- entries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (changed("images", 1, id=1), "image-id-twice", "image id 1 is used twice"),
        (changed("images", 1, id=None), "image-id", "images[1]: id must be a whole number or text, got None"),
        (changed("images", 1, id=True), "image-id", "got True"),
        (changed("images", 1, file_name=None), "image-file-name", "image id 2: file_name must be text"),
        (changed("images", 1, file_name=5), "image-file-name", "got 5"),
        (changed("images", 1, id="a\nb"), "image-id", "got 'a\\nb'"),
        (changed("categories", 0, name="dog\ud800"), "category-name", "readable text"),
        (changed("categories", 0, name="\x1b[2J"), "category-name", "readable text"),
        (changed("annotations", 0, image_id=99), "annotation-image-unknown", "annotation id 1: image_id 99 is not"),
        (changed("annotations", 0, image_id=None), "annotation-image-id", "annotation id 1: image_id must be"),
        (changed("annotations", 0, category_id=4), "annotation-category-unknown", "category_id 4 is not among"),
        (changed("annotations", 0, category_id="3"), "annotation-category-id", "must be a whole number, got '3'"),
        (changed("annotations", 0, category_id=2**70), "annotation-category-id", "must be a whole number"),
        (changed("annotations", 0, bbox=[1, 2, 3]), "box-malformed", "got [1, 2, 3]"),
        (changed("annotations", 0, bbox=[1, 2, 3, 4, 5]), "box-malformed", "four numbers"),
        (changed("annotations", 0, bbox=["1", "2", "3", "4"]), "box-malformed", "got ['1'"),
        (changed("annotations", 0, bbox=[10**400, 2, 3, 4]), "box-malformed", "four numbers"),
        (changed("annotations", 0, bbox=None), "box-malformed", "got None"),
        (changed("annotations", 0, iscrowd=2), "annotation-iscrowd", "iscrowd must be 0 or 1, got 2"),
        (changed("categories", 0, id="7"), "category-id", "categories[0]: id must be a whole number, got '7'"),
        (changed("categories", 0, id=3), "category-id-twice", "category id 3 is used twice"),
        (changed("categories", 0, name="cat"), "category-name-twice", "two categories are called 'cat'"),
        (changed("categories", 0, name=" "), "category-name", "readable text"),
        (changed("annotations", 0, bbox=[10, 20, 0, 5]), "box-degenerate", "annotation id 1 (image id 1)"),
        (changed("annotations", 0, bbox=[10, 20, -5, 5]), "box-degenerate", "has no area"),
        (changed("annotations", 0, bbox=[10, 20, float("nan"), 5]), "box-not-finite", "NaN or infinity"),
        (changed("annotations", 0, bbox=[float("-inf"), 20, 5, 5]), "box-not-finite", "NaN or infinity"),
        (changed("annotations", 0, bbox=[95, 20, 10, 5]), "box-outside", "x 95 to 105, y 20 to 25 leaves"),
        (changed("annotations", 0, bbox=[200, 20, 10, 5]), "box-outside", "100 x 80 pixels"),
        (changed("images", 0, width=80, height=100), "image-size", "annotated as 80 x 100 (width x height), but a.jpg"),
        (changed("images", 0, file_name="none.jpg"), "image-missing", "no such image file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_broken_entry_is_one_error_with_its_place(
    tmp_path: Path, content: dict[str, Any], code: str, message: str
) -> None:
    file = write_coco(tmp_path, content)
    _, log = read_table(file, images=str(tmp_path))
    assert code in codes(log)
    assert len(set(codes(log))) <= 2  # an image without id also leaves its annotation without image
    text = text_of(log, code)
    assert message in text and str(file) in text
    with pytest.raises(DataError):
        log.raise_errors("data")


@pytest.mark.parametrize("name", ["images", "annotations", "categories"])
@pytest.mark.parametrize("entry", [None, 3, "x", []])
def test_entries_that_are_no_objects_are_reported(tmp_path: Path, name: str, entry: object) -> None:
    content = coco_content()
    content[name].append(entry)
    _, log = read_table(write_coco(tmp_path, content))
    assert codes(log) == [
        {"images": "image", "annotations": "annotation", "categories": "category"}[name] + "-malformed"
    ]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (changed("annotations", 1, id=1), "annotation-id-twice"),
        (changed("annotations", 1, id=None), "annotation-id"),
        (changed("annotations", 1, id="two"), "annotation-id"),
        (changed("annotations", 1, area=-3), "annotation-area"),
        (changed("annotations", 1, area=float("nan")), "annotation-area"),
        (changed("annotations", 1, area="big"), "annotation-area"),
        (changed("images", 1, width="wide"), "image-size-field"),
        (changed("images", 1, width=0), "image-size-field"),
        (changed("images", 1, file_name="a.jpg"), "file-twice"),
        (changed("categories", 0, name="Cat "), "class-name-similar"),
        (changed("annotations", 1, bbox=[10, 20, 0.5, 40]), "box-tiny"),
        (changed("annotations", 1, bbox=[10, 20, 30, 40], category_id=3), "box-twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_training_survives_is_a_warning_and_no_box_is_lost(
    tmp_path: Path, content: dict[str, Any], code: str
) -> None:
    table, log = read_table(write_coco(tmp_path, content))
    assert codes(log) == [] and codes(log, "warning") == [code]
    assert len(table.boxes) == 3


@pytest.mark.parametrize("ids", [(0, 90), (-5, 2**31), (2**40, 1)])
def test_sparse_zero_negative_and_huge_category_ids_are_fine(tmp_path: Path, ids: tuple[int, int]) -> None:
    content = coco_content()
    names = {ids[0]: "cat", ids[1]: "dog"}
    content["categories"] = [{"id": key, "name": name} for key, name in names.items()]
    for entry in content["annotations"]:
        entry["category_id"] = ids[0] if entry["category_id"] == 3 else ids[1]
    table, log = read_table(write_coco(tmp_path, content))
    assert not log.problems
    assert table.class_names == tuple(names[key] for key in sorted(ids))
    assert [table.class_names[number] for number in table.classes] == ["cat", "dog", "cat"]


def test_area_and_iscrowd_are_filled_in_and_broken_masks_ignored(tmp_path: Path) -> None:
    content = coco_content()
    for entry in content["annotations"]:
        del entry["area"], entry["iscrowd"]
    content["annotations"][0]["segmentation"] = {"size": [3], "counts": "\\\u0001 no RLE"}
    table, log = read_table(write_coco(tmp_path, content))
    assert not log.problems
    assert table.areas.tolist() == [1200.0, 3000.0, 100.0]  # 30 x 40, 50 x 60, 10 x 10
    assert table.crowd.tolist() == [False] * 3


def test_text_image_ids_work(tmp_path: Path) -> None:
    content = coco_content()
    content["images"][0]["id"] = content["annotations"][0]["image_id"] = content["annotations"][1]["image_id"] = "first"
    table, log = read_table(write_coco(tmp_path, content))
    assert not log.problems and table.ids == ["first", "2"]


@pytest.mark.parametrize("categories", [{"categories": []}, {}])
def test_without_any_category_there_is_one_error(tmp_path: Path, categories: dict[str, list[object]]) -> None:
    content = {key: value for key, value in coco_content().items() if key != "categories"} | categories
    table, log = read_table(write_coco(tmp_path, content))
    assert codes(log) == ["categories-empty"]
    (problem,) = [each for each in log.problems if each.severity == "error"]
    assert problem.message == "no category is listed, and 3 annotations name one"
    assert problem.fix == 'list each under "categories", e.g. {"id": 3, "name": "cat"}'
    assert len(table.boxes) == 0
