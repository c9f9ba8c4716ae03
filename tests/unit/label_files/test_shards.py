from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pytest

from raydet.errors import DataError
from raydet.image_jobs.shards import Chunk, finished, read_shard, shard_path, write_shard
from raydet.image_jobs.skipped import export_skipped
from raydet.label_files.coco import export_coco
from raydet.label_files.labeller import SCHEMA

CHUNK = Chunk(0, ("a.jpg", "b.jpg", "c.jpg"))
ROWS = [
    {
        "image": "a.jpg",
        "width": 100,
        "height": 80,
        "boxes": [10.0, 20.0, 40.5, 60.25, 0.0, 0.0, 5.0, 5.0],
        "classes": [1, 0],
        "scores": [0.875, 0.5],
        "quality": [1.0, 1.0],
    },
    {"image": "b.jpg", "error": "truncated, really"},
    {"image": "c.jpg", "width": 9, "height": 9, "boxes": [], "classes": [], "scores": [], "quality": []},
]


def written(folder: Path) -> Path:
    write_shard(folder, CHUNK, pa.Table.from_pylist(ROWS, SCHEMA), "settings")
    return shard_path(folder, 0)


def test_a_shard_counts_for_its_own_images_and_settings_only(tmp_path: Path):
    assert finished(tmp_path, CHUNK, "settings") is None
    written(tmp_path)
    note = finished(tmp_path, CHUNK, "settings")
    assert note is not None
    assert (note.images, note.skipped) == (3, 1)
    for chunk, settings in ((Chunk(0, ("a.jpg", "b.jpg", "x.jpg")), "settings"), (CHUNK, "others")):
        with pytest.raises(DataError, match="holds other images or was made with other settings"):
            finished(tmp_path, chunk, settings)


def test_half_a_shard_never_counts(tmp_path: Path):
    path = written(tmp_path)
    content = path.read_bytes()
    for size in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        assert finished(tmp_path, CHUNK, "settings") is None
    path.unlink()
    (tmp_path / ".writing-x1-part-00000000.parquet").write_bytes(content)  # what a killed writer leaves
    assert finished(tmp_path, CHUNK, "settings") is None


def test_a_changed_byte_is_noticed_when_the_shard_is_read(tmp_path: Path):
    path = written(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b"a.jpg")] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"part-00000000.parquet: damaged: .* delete it and run the same command again"):
        read_shard(path, ("image",))


def test_the_export_holds_the_boxes_above_the_threshold(tmp_path: Path):
    shard = written(tmp_path)
    found = export_coco([shard], tmp_path / "coco.json", ("cat", "dog"), above=[0.5, 0.5])
    assert (found.images, found.empty, found.boxes, found.skipped) == (2, 1, 1, 1)
    content = json.loads((tmp_path / "coco.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert content["images"] == [
        {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80},
        {"id": 3, "file_name": "c.jpg", "width": 9, "height": 9},
    ]
    # 40.5 - 10 = 30.5, 60.25 - 20 = 40.25, 30.5 * 40.25 = 1227.625; the threshold is strict
    assert content["annotations"] == [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 2,
            "bbox": [10.0, 20.0, 30.5, 40.25],
            "area": 1227.625,
            "iscrowd": 0,
            "score": 0.875,
        }
    ]
    assert export_coco([shard], tmp_path / "coco.json", ("cat", "dog"), above=[0.4, 0.4]).boxes == 2


def test_each_class_has_its_own_threshold_in_the_export(tmp_path: Path):
    shard = written(tmp_path)

    def classes(*above: float) -> list[int]:
        export_coco([shard], tmp_path / "coco.json", ("cat", "dog"), above=above)
        return [each["category_id"] for each in json.loads((tmp_path / "coco.json").read_text())["annotations"]]

    assert classes(0.4, 0.4) == [2, 1]
    assert classes(0.4, 0.9) == [1]
    assert classes(0.9, 0.4) == [2]


def test_skipped_images_are_listed_with_their_reason(tmp_path: Path):
    assert export_skipped([written(tmp_path)], tmp_path / "skipped.csv") == 1
    with (tmp_path / "skipped.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["image", "reason"], ["b.jpg", "truncated, really"]]
