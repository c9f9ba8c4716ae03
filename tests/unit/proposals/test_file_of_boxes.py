"""The COCO JSON of `raydet proposals --source file`: numbers that no image and no box can have are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.errors import DataError
from raydet.proposals.sources import read_file
from tests.unit.proposals.test_proposals import coco


@pytest.mark.parametrize(
    ("width", "said"),
    [
        ("1e400", "inf"),
        ("Infinity", "inf"),
        ("NaN", "nan"),
        ("640.7", "640.7"),
        ('"640"', "'640'"),
        ("true", "True"),
        ("null", "None"),
    ],
)
def test_sides_that_are_no_whole_numbers_are_one_message_with_the_image(tmp_path: Path, width: str, said: str):
    file = tmp_path / "boxes.json"
    entries = [
        f'{{"id": {n}, "file_name": "{n}.png", "width": {side}, "height": 9}}' for n, side in ((1, 9), (2, width))
    ]
    file.write_text(f'{{"images": [{", ".join(entries)}], "annotations": []}}')
    message = rf"images\[1\]: ValueError: width of '2.png' must be a whole number of pixels, got {said}$"
    with pytest.raises(DataError, match=message):
        read_file(file)


def test_a_side_with_a_decimal_point_may_be_whole(tmp_path: Path):
    assert read_file(coco(tmp_path / "boxes.json", "a.png", 640.0, 9, [])).found["a.png"][:2] == (640, 9)


@pytest.mark.parametrize("box", [[0, 0, 10**400, 1], [1e308, 0, 1e308, 1]])
def test_boxes_beyond_all_numbers_are_one_message(tmp_path: Path, box: list[float]):
    file = coco(tmp_path / "boxes.json", "a.png", 9, 9, [box])
    with pytest.raises(DataError, match=r"annotations\[0\]: (Overflow|Value)Error"):
        read_file(file)


def test_two_images_of_one_id_are_refused_not_merged(tmp_path: Path):
    file = tmp_path / "boxes.json"
    entries = ", ".join(f'{{"id": 7, "file_name": "{name}.png", "width": 9, "height": 9}}' for name in "ab")
    file.write_text(f'{{"images": [{entries}], "annotations": []}}')
    with pytest.raises(DataError, match=r"images\[1\]: ValueError: id 7 is that of 'a.png' too$"):
        read_file(file)
