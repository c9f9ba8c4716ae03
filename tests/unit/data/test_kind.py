"""Which kind of data set a path is taken for."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.data.folder import walk
from raydet.data.kind import kind_of
from raydet.data.problems import ProblemLog
from raydet.errors import DataError, UserError
from tests.tiny_data import write_coco
from tests.tiny_images import encoded, noise, write_cifar10, write_class_folders, write_idx, write_parquet


def test_classes_are_recognised_by_their_files(tmp_path: Path):
    found = [
        write_parquet(tmp_path / "one.parquet"),
        write_parquet(tmp_path / "files" / "train.parquet").parent,
        write_cifar10(tmp_path / "cifar"),
        write_idx(tmp_path / "idx"),
        write_class_folders(tmp_path / "folders", {"cat": 1, "dog": 1}),
        Path("patterns"),
    ]
    assert [kind_of(str(path)) for path in found] == ["classification"] * len(found)


def test_boxes_come_first_and_plain_images_are_for_detectors(tmp_path: Path):
    boxes = write_coco(tmp_path / "boxes")
    pictures = write_class_folders(tmp_path / "photos", {"all": 2})
    beside = write_class_folders(tmp_path / "beside", {"cat": 1, "dog": 1})
    (beside / "x.png").write_bytes(encoded(noise(0, 9)))
    found = [boxes, boxes.parent, pictures, pictures / "all", beside, "shapes", f"{pictures}/**/*.png"]
    assert [kind_of(str(path)) for path in found] == ["detection"] * len(found)


def test_a_path_without_a_data_set_is_answered_with_what_was_looked_for(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("x")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DataError, match=r"no data set found there; looked for boxes: COCO .*; for classes: CIFAR"):
            kind_of(str(path))
    with pytest.raises(DataError, match="no such file or folder"):
        kind_of(str(tmp_path / "none"))
    with pytest.raises(UserError, match="environment variable RAYDET_NONE"):
        kind_of("${RAYDET_NONE}/x")


def test_symlinks_in_a_circle_are_named(tmp_path: Path):
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat" / "self").symlink_to("self")
    with pytest.raises(DataError, match=f"{tmp_path / 'cat' / 'self'}: cannot be followed: .*; remove the symlink"):
        list(walk(tmp_path, ProblemLog()))
