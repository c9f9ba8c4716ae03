from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from raydet.errors import DataError
from tests.tiny_data import changed, coco_content, codes, read_table, text_of, write_coco, write_image

# --- boxes ------------------------------------------------------------------------------------------------------------


def test_boxes_up_to_a_pixel_outside_are_rounded_in(tmp_path: Path) -> None:
    content = changed("annotations", 0, bbox=[-1, -0.5, 102, 81.5])  # to x 101, y 81 in 100 x 80
    table, log = read_table(write_coco(tmp_path, content))
    assert not log.problems
    assert table.boxes[0].tolist() == [0, 0, 100, 80]


@pytest.mark.parametrize(
    ("bbox", "clipped"),
    [
        ([90, 70, 30, 30], [90, 70, 100, 80]),
        ([200, 20, 10, 5], None),
        ([10, 20, 0, 5], None),
        ([10, 10, float("nan"), 5], None),
    ],
)
def test_bad_boxes_are_dropped_or_clipped_where_that_is_wanted(
    tmp_path: Path, bbox: list[float], clipped: list[float] | None
) -> None:
    file = write_coco(tmp_path, changed("annotations", 0, bbox=bbox))
    table, log = read_table(file, on_bad_box="drop")
    assert len(table.boxes) == 2 and not log.num_errors and len(codes(log, "warning")) == 1
    table, log = read_table(file, on_bad_box="clip")
    assert not log.num_errors and len(codes(log, "warning")) == 1
    assert len(table.boxes) == (3 if clipped else 2)
    if clipped:
        assert table.boxes[0].tolist() == clipped


@pytest.mark.parametrize("on_bad_box", ["error", "drop", "clip"])
def test_normalised_boxes_are_one_error_under_every_policy(tmp_path: Path, on_bad_box: Any) -> None:
    content = coco_content()
    for entry in content["annotations"]:
        entry["bbox"] = [0.1, 0.2, 0.5, 0.5]
    _, log = read_table(write_coco(tmp_path, content), on_bad_box)
    assert codes(log) == ["boxes-normalised"]


@pytest.mark.parametrize("on_bad_box", ["error", "drop", "clip"])
def test_corner_boxes_are_one_error_under_every_policy(tmp_path: Path, on_bad_box: Any) -> None:
    content = coco_content()
    for entry, corners in zip(
        content["annotations"], ([60, 20, 90, 60], [50, 50, 99, 79], [1, 2, 30, 40]), strict=True
    ):
        entry["bbox"] = corners
    _, log = read_table(write_coco(tmp_path, content), on_bad_box)
    assert codes(log) == ["boxes-corners"]
    assert "[x, y, width, height]" in text_of(log, "boxes-corners")


def test_a_thousand_boxes_in_one_image_are_mentioned(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"] = [
        {"id": n, "image_id": 1, "category_id": 3, "bbox": [n % 50, n // 50, 5 + n % 7, 5]} for n in range(1001)
    ]
    table, log = read_table(write_coco(tmp_path, content))
    assert len(table.boxes) == 1001 and codes(log, "warning") == ["image-crowded"]


# --- image files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/passwd", "is absolute"),
        ("C:/data/a.jpg", "is absolute"),
        ("../a.jpg", "contains '..'"),
        ("x/../../a.jpg", "contains '..'"),
        ("https://example.com/a.jpg", "is a URL"),
        ("images\\a.jpg", "backslash; write /"),
        ("a\0.jpg", "control character"),
        ("x" * 300 + ".jpg", "too long"),
        ("d/" * 3000 + "a.jpg", "too long"),
        ("\ud800.jpg", "not valid Unicode"),
        ("link.jpg", "symlink out of the image root"),
        ("linked/a.jpg", "symlink out of the image root"),
        ("loop.jpg", "cannot be followed|no such image file|symlink"),
    ],
    ids=lambda value: ascii(value[:20]),
)  # fmt: skip
def test_names_that_leave_the_image_root_are_refused(tmp_path: Path, name: str, message: str) -> None:
    write_image(tmp_path / "outside" / "a.jpg")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link.jpg").symlink_to(tmp_path / "outside" / "a.jpg")
    (folder / "linked").symlink_to(tmp_path / "outside")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    table, log = read_table(write_coco(folder, changed("images", 1, file_name=name)))
    assert codes(log) in (["file-name"], ["image-missing"])
    assert re.search(re.escape(message) if "|" not in message else message, str(log.problems[0]))
    assert table.ids == ["1"]


def test_symlinks_inside_the_root_are_fine(tmp_path: Path) -> None:
    file = write_coco(tmp_path, changed("images", 1, file_name="link.jpg"))
    (tmp_path / "link.jpg").symlink_to(tmp_path / "b.jpg")
    assert not read_table(file)[1].problems


def test_unreadable_images_are_errors_with_the_id(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    (tmp_path / "b.jpg").write_bytes(b"")
    table, log = read_table(file)
    assert codes(log) == ["image-unreadable"] and "image id 2" in str(log.problems[0])
    assert "empty file" in str(log.problems[0])
    assert table.ids == ["1"] and len(table.boxes) == 2


@pytest.mark.parametrize(("orientation", "code"), [(6, "exif-rotated"), (3, "exif-ambiguous")])
def test_boxes_drawn_before_exif_rotation_are_noticed(tmp_path: Path, orientation: int, code: str) -> None:
    file = write_coco(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = orientation
    write_image(tmp_path / "a.jpg", exif=exif)
    _, log = read_table(file)
    assert [problem.code for problem in log.problems] == [code]


def test_boxes_drawn_after_exif_rotation_are_right(tmp_path: Path) -> None:
    file = write_coco(tmp_path, changed("images", 0, width=80, height=100))
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / "a.jpg", exif=exif)
    table, log = read_table(file)
    assert not log.problems and table.sizes[0].tolist() == [100, 80]


def test_sizes_may_be_left_to_the_images(tmp_path: Path) -> None:
    table, log = read_table(write_coco(tmp_path, changed("images", 0, width=None, height=None)))
    assert not log.problems and table.sizes.tolist() == [[80, 100], [80, 100]]


# --- the image root ---------------------------------------------------------------------------------------------------


def test_images_lie_beside_the_json_or_in_its_parent_or_where_told(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    (tmp_path / "annotations").mkdir()
    moved = tmp_path / "annotations" / "data.json"
    file.rename(moved)
    assert read_table(moved)[0].root == tmp_path
    assert read_table(tmp_path)[0].root == tmp_path  # the folder's only COCO file
    (tmp_path / "pictures").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).rename(tmp_path / "pictures" / name)
    with pytest.raises(DataError, match=r"neither in .* set `images: .*pictures`"):
        read_table(moved)
    assert read_table(moved, images=str(tmp_path / "pictures"))[0].root == tmp_path / "pictures"
    with pytest.raises(DataError, match="is not a folder; correct `images`"):
        read_table(moved, images=str(tmp_path / "nothing"))


def test_unreadable_files_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "none.json")
    if os.geteuid() != 0:
        file = write_coco(tmp_path)
        file.chmod(0)
        with pytest.raises(DataError, match="cannot be read"):
            read_table(file)
