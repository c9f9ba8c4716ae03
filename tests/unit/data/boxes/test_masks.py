"""Masks from COCO files: polygons and run lengths, what is refused, and how they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco
from pycocotools.coco import COCO

from raydet.config.box_data import DatasetConfig, ShapesConfig
from raydet.data.boxes.formats.detect import read_source
from raydet.data.boxes.index import DatasetIndex, write_index
from raydet.data.boxes.masks import read_mask, rle_of
from raydet.data.boxes.rules import usable
from raydet.data.boxes.source import Table
from raydet.data.boxes.synthetic import materialise
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from tests.tiny_data import coco_content, codes, write_coco, write_image

HEIGHT, WIDTH = 80, 100
SQUARE = [[10, 20, 40, 20, 40, 60, 10, 60]]
RLE = {"size": [HEIGHT, WIDTH], "counts": [80 * 50, 80 * 10, 80 * 40]}  # columns 50 to 59


def read(path: Path, on_bad_box: str = "error") -> tuple[Table, ProblemLog]:
    log = ProblemLog()
    source = read_source(DatasetConfig(path=str(path)), log, masks=True)
    return usable(source, on_bad_box, log), log


def content(*segmentations: Any, **first: Any) -> dict[str, Any]:
    """`coco_content` with masks of its three boxes."""
    found = coco_content()
    for annotation, segmentation in zip(found["annotations"], segmentations, strict=False):
        annotation["segmentation"] = segmentation
    found["annotations"][0] |= first
    return found


def decode(rle: bytes) -> np.ndarray:
    return coco.decode({"size": [HEIGHT, WIDTH], "counts": rle}).astype(bool)


def compressed() -> dict[str, Any]:
    found = coco.frPyObjects(RLE, HEIGHT, WIDTH)
    return {"size": [HEIGHT, WIDTH], "counts": found["counts"].decode()}


def test_polygons_and_both_kinds_of_run_lengths_are_read(tmp_path: Path):
    table, log = read(write_coco(tmp_path, content(SQUARE, RLE, compressed())))
    assert not log.problems and table.masks is not None
    square, columns, same = (decode(mask) for mask in table.masks)
    assert square.sum() == 30 * 40 and square[20:60, 10:40].all()
    assert columns.sum() == 80 * 10 and columns[:, 50:60].all()
    assert (same == columns).all()


def test_an_index_keeps_masks_beside_the_boxes_and_lists_those_to_train_on(tmp_path: Path):
    table, _ = read(write_coco(tmp_path, content(SQUARE, RLE, compressed(), iscrowd=1)))
    write_index(tmp_path / "x.arrow", table)
    index = DatasetIndex.open(tmp_path / "x.arrow")
    assert index.has_masks
    assert index.masks_at(0) == list(table.masks[:2]) and index.masks_at(1) == list(table.masks[2:])
    assert index.own_masks_at(0) == [table.masks[1]]  # the first one is crowd
    assert len(index.target_at(0)) == 1


def test_taking_images_and_boxes_takes_their_masks_along(tmp_path: Path):
    table, _ = read(write_coco(tmp_path, content(SQUARE, RLE, compressed())))
    assert list(table.take(np.array([1])).masks) == [table.masks[2]]
    assert list(table.with_boxes(np.array([False, True, True])).masks) == list(table.masks[1:])
    assert table.without_boxes().masks is None


def test_an_index_without_masks_is_as_it_was(tmp_path: Path):
    log = ProblemLog()
    file = write_coco(tmp_path, content(SQUARE, RLE, compressed()))
    table = usable(read_source(DatasetConfig(path=str(file)), log), "error", log)
    assert table.masks is None
    write_index(tmp_path / "x.arrow", table)
    index = DatasetIndex.open(tmp_path / "x.arrow")
    assert not index.has_masks
    with pytest.raises(ValueError, match="has no masks"):
        index.masks_at(0)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4]], "at least three corners, got a list of 4 entries"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least three corners, got a list of 7 entries"),
        ([[1, 2, 3, 4, 5, "6"]], "all numbers"),
        ([[1, 2, 3, 4, 5, float("inf")]], "all finite"),
        ([[1, 2, 3, 4, 5, 10**400]], "all finite"),
        ("polygon", "a list of polygons or an RLE, got 'polygon'"),
        ({"size": [80], "counts": [8000]}, r"size: \[height, width\]"),
        ({"size": [80, 100], "counts": [4000, 3999]}, "add up to 7,999, its size has 8,000 pixels"),
        ({"size": [80, 100], "counts": [9000, -1000]}, "add up to 8,000"),
        ({"size": [80, 100], "counts": "\x01"}, "has a character"),
        ({"size": [80, 100], "counts": "o"}, "ends within a count"),
        ({"size": [80, 100], "counts": 7}, "wants counts"),
        ({"size": [1, 2**31], "counts": [2**31]}, r"at most 2,147,483,647 pixels, got \[1, 2147483648\]"),
        ({"size": [1, 2**64], "counts": [2**64]}, r"at most 2,147,483,647 pixels, got \[1, 18446744073709551616\]"),
        ({"size": [10**400, 80], "counts": [8000]}, "at most 2,147,483,647 pixels, got .{40}$"),
        ({"size": [80, 100], "counts": [2**64]}, "add up to what no image can have, its size has 8,000 pixels"),
        ({"size": [80, 100], "counts": [-(10**400)]}, "add up to what no image can have, its size has 8,000 pixels"),
    ],
)
def test_a_malformed_mask_is_an_error_with_its_place(tmp_path: Path, segmentation: Any, message: str):
    with pytest.raises(ValueError, match=message):
        read_mask(segmentation)
    _, log = read(write_coco(tmp_path, content(segmentation, RLE, SQUARE)))
    (problem,) = log.problems
    assert (problem.code, problem.where, problem.severity) == ("mask-malformed", "annotation id 1", "error")


def test_an_object_without_a_mask_is_an_error_unless_boxes_may_be_bad(tmp_path: Path):
    file = write_coco(tmp_path, content(SQUARE, [], RLE))
    _, log = read(file)
    assert codes(log) == ["mask-missing"]
    (problem,) = (each for each in log.problems if each.code == "mask-missing")
    assert "annotation id 2" in problem.where
    assert "the object has no mask (segmentation)" in str(problem) and "on_bad_box: drop" in problem.fix
    table, log = read(file, "drop")
    assert not log.num_errors and [bool(mask) for mask in table.masks] == [True, False, True]
    assert len(table.boxes) == 3  # the box stays


def test_a_crowd_without_a_mask_is_no_problem(tmp_path: Path):
    table, log = read(write_coco(tmp_path, content(None, RLE, SQUARE, iscrowd=1)))
    assert not log.problems and table.masks[0] == b""


def test_run_lengths_of_another_size_are_refused(tmp_path: Path):
    other = {"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]}
    _, log = read(write_coco(tmp_path, content(other, RLE, SQUARE)))
    (problem,) = (each for each in log.problems if each.code == "mask-size")
    assert "the RLE is of 80 x 100 pixels (width x height), the image has 100 x 80" in problem.message


def test_a_format_without_masks_is_refused_where_masks_are_wanted(tmp_path: Path):
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]\n")
    with pytest.raises(DataError, match="format yolo has none that are read; give a COCO file"):
        read_source(DatasetConfig(path=str(tmp_path / "data.yaml")), ProblemLog(), role="labeled", masks=True)


def test_polygons_are_filled_as_pycocotools_fills_those_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = materialise(ShapesConfig(num_images=6, height=HEIGHT, width=WIDTH), tmp_path, masks=True)
    table, log = read(file)
    assert not log.num_errors
    reference = COCO(str(file))
    capsys.readouterr()
    expected = [reference.annToMask(reference.anns[key]).astype(bool) for key in sorted(reference.anns)]
    assert len(expected) == len(table.masks) > 6
    for mask, other, box in zip(table.masks, expected, table.boxes, strict=True):
        assert (decode(mask) == other).all() and other.any()
        rows, columns = np.nonzero(other)
        # A mask fills its box, to a pixel.
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(np.array(found) - box).max() <= 1.5


def test_shapes_without_masks_are_in_their_old_folder_and_those_with_masks_have_the_same_boxes(tmp_path: Path):
    config = ShapesConfig(num_images=2, height=48, width=64)
    plain, outlined = materialise(config, tmp_path), materialise(config, tmp_path, masks=True)
    assert outlined.parent.name == f"{plain.parent.name}-masks"
    assert "segmentation" not in plain.read_text()
    log = ProblemLog()
    tables = [usable(read_source(DatasetConfig(path=str(file)), log), "error", log) for file in (plain, outlined)]
    assert tables[0].boxes.tolist() == tables[1].boxes.tolist()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_compressed_and_uncompressed_run_lengths_say_the_same(lengths: list[int]):
    pixels = sum(lengths)
    size = [1, max(pixels, 1)]
    lengths = lengths if pixels else [1]
    text = coco.frPyObjects({"size": size, "counts": lengths}, *size)["counts"].decode()
    plain, read_back = read_mask({"size": size, "counts": lengths}), read_mask({"size": size, "counts": text})
    assert plain is not None and read_back is not None
    assert rle_of(plain, *size) == rle_of(read_back, *size)


def test_an_outline_far_outside_takes_no_memory_and_covers_what_it_covers():
    # Clipped before it is filled: pycocotools would walk along every pixel of it.
    raw = read_mask([[-1e15, -1e15, 1e15, -1e15, 1e15, 1e15, -1e15, 1e15]])
    assert raw is not None and decode(rle_of(raw, HEIGHT, WIDTH)).all()
