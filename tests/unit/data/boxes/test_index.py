from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.data.boxes.index import DatasetIndex, write_index
from raydet.data.boxes.source import Table
from raydet.data.mapped import write_damaged
from raydet.errors import DataError
from tests.helpers import data_folder
from tests.tiny_data import read_table, write_coco


def tiny_table(root: Path) -> Table:
    """Three images with 2, 0 and 1 boxes; the second box is crowd."""
    return Table(
        root=root,
        class_names=("cat", "dog"),
        ids=["x", "7", "ü"],
        files=["x.jpg", "sub/7.jpg", "ü.jpg"],
        sizes=np.array([[80, 100], [1, 5000], [10, 10]]),
        first=np.array([0, 2, 2, 3]),
        boxes=np.array([[0, 0, 10, 20], [5, 5, 100, 80], [0.1, 0.2, 9.9, 10]], dtype=np.float64),
        classes=np.array([1, 0, 1]),
        crowd=np.array([False, True, False]),
        areas=np.array([150.0, 7125.0, 96.04]),
    )


@pytest.mark.parametrize("damaged", [(), (0,)])
def test_what_is_true_of_many_images_is_that_of_each_one_behind_the_other(damaged: tuple[int, ...], tmp_path: Path):
    write_index(tmp_path / "a.arrow", tiny_table(tmp_path))
    if damaged:
        write_damaged(tmp_path / "a.arrow", damaged)
    index = DatasetIndex.open(tmp_path / "a.arrow")
    for rows in ([], [1], [0, 1, 2], [2, 0]):
        counts, found = index.truth_of(rows)
        each = [index.truth_at(row) for row in rows]
        assert counts.tolist() == [len(one.classes) for one in each]
        for name in ("boxes", "classes", "crowd", "areas"):
            column = getattr(found, name)
            assert column.dtype == getattr(index.truth_at(0), name).dtype
            assert column.tolist() == [value for one in each for value in getattr(one, name).tolist()]
    found.boxes[:] = 0  # a copy
    assert index.truth_at(2).boxes.any()


def test_an_index_returns_what_was_written(tmp_path: Path) -> None:
    write_index(tmp_path / "a.arrow", tiny_table(tmp_path))
    index = DatasetIndex.open(tmp_path / "a.arrow")
    assert len(index) == 3
    assert index.class_names == ("cat", "dog")
    assert index.ids() == ["x", "7", "ü"]
    assert [index.position(image_id) for image_id in ("x", "7", "ü")] == [0, 1, 2]
    assert [index.size_at(row) for row in range(3)] == [(80, 100), (1, 5000), (10, 10)]
    assert index.file_at(1) == tmp_path / "sub" / "7.jpg"
    target = index.target_at(0)
    assert target.boxes.dtype == torch.float32 and target.classes.dtype == torch.int64
    assert target.scores.tolist() == target.quality.tolist() == [1]
    assert target.scores.dtype == target.quality.dtype == torch.float32
    assert target.boxes.tolist() == [[0, 0, 10, 20]] and target.classes.tolist() == [1]  # the crowd box is left out
    assert index.target_at(1).boxes.shape == (0, 4)
    truth = index.truth_at(0)
    assert truth.boxes.tolist() == [[0, 0, 10, 20], [5, 5, 100, 80]]
    assert truth.classes.tolist() == [1, 0] and truth.classes.dtype == np.int64
    assert truth.crowd.tolist() == [False, True] and truth.areas.tolist() == [150.0, 7125.0]
    assert index.num_boxes == 2
    assert index.boxes_per_class().tolist() == [0, 2]


def test_unknown_ids_are_key_errors(tmp_path: Path) -> None:
    write_index(tmp_path / "a.arrow", tiny_table(tmp_path))
    with pytest.raises(KeyError, match="'nobody'"):
        DatasetIndex.open(tmp_path / "a.arrow").position("nobody")


def test_an_index_without_boxes_or_images_works(tmp_path: Path) -> None:
    write_index(tmp_path / "a.arrow", tiny_table(tmp_path).without_boxes())
    index = DatasetIndex.open(tmp_path / "a.arrow")
    assert (len(index), index.num_boxes, index.boxes_per_class().tolist()) == (3, 0, [0, 0])
    write_index(tmp_path / "b.arrow", tiny_table(tmp_path).take(np.zeros(0, dtype=np.int64)))
    assert len(DatasetIndex.open(tmp_path / "b.arrow")) == 0


@given(
    ids=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=40, unique=True)
)
@settings(max_examples=30)
def test_every_id_is_found_at_its_row(tmp_path_factory: pytest.TempPathFactory, ids: list[str]) -> None:
    folder = tmp_path_factory.mktemp("index")
    n = len(ids)
    table = replace(
        tiny_table(folder).without_boxes(),
        ids=ids,
        files=["a.jpg"] * n,
        sizes=np.ones((n, 2), dtype=np.int64),
        first=np.zeros(n + 1, dtype=np.int64),
    )
    write_index(folder / "a.arrow", table)
    index = DatasetIndex.open(folder / "a.arrow")
    assert [index.position(image_id) for image_id in ids] == list(range(n))


def test_hash_collisions_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import raydet.data.mapped as module

    monkeypatch.setattr(module, "_hash", lambda image_id: np.uint64(len(image_id) % 1))
    write_index(tmp_path / "a.arrow", tiny_table(tmp_path))
    index = DatasetIndex.open(tmp_path / "a.arrow")
    assert [index.position(image_id) for image_id in ("x", "7", "ü")] == [0, 1, 2]
    with pytest.raises(KeyError):
        index.position("y")


def test_an_index_pickles_as_its_path(tmp_path: Path) -> None:
    write_index(tmp_path / "a.arrow", tiny_table(tmp_path))
    data = pickle.dumps(DatasetIndex.open(tmp_path / "a.arrow"))
    assert len(data) < 500
    assert pickle.loads(data).ids() == ["x", "7", "ü"]


def test_any_changed_or_missing_byte_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.arrow"
    write_index(file, tiny_table(tmp_path))
    data = file.read_bytes()
    for length in range(0, len(data), 37):
        file.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"a\.arrow"):
            DatasetIndex.open(file)
    unnoticed = 0
    for place in range(0, len(data), 11):
        changed = bytearray(data)
        changed[place] ^= 0x15
        file.write_bytes(bytes(changed))
        try:
            index = DatasetIndex.open(file)
        except DataError:
            continue
        unnoticed += 1  # padding and unused header fields: whatever opens must be right
        assert index.ids() == ["x", "7", "ü"] and index.truth_at(0).areas.tolist() == [150.0, 7125.0]
        assert index.class_names == ("cat", "dog") and index.size_at(0) == (80, 100)
    assert unnoticed < len(data) / 11


def test_foreign_arrow_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.arrow"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("x", pa.int32())])) as writer:
        writer.write_batch(pa.record_batch([pa.array([1], pa.int32())], names=["x"]))
    with pytest.raises(DataError, match="not a raydet index"):
        DatasetIndex.open(file)
    with pytest.raises(DataError, match="no such index; prepare the data first"):
        DatasetIndex.open(tmp_path / "none.arrow")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.arrow"
    write_index(file, tiny_table(tmp_path))
    before = file.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_index(file, tiny_table(tmp_path).without_boxes())
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.arrow"]


def test_replacing_an_open_index_does_not_change_it(tmp_path: Path) -> None:
    file = tmp_path / "a.arrow"
    write_index(file, tiny_table(tmp_path))
    index = DatasetIndex.open(file)
    write_index(file, tiny_table(tmp_path).without_boxes())
    assert index.truth_at(2).boxes.tolist() == [[0.1, 0.2, 9.9, 10]]


def test_a_file_that_became_a_symlink_out_of_the_root_is_refused(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "data")
    table, _ = read_table(file)
    write_index(tmp_path / "a.arrow", table)
    (tmp_path / "data" / "a.jpg").rename(tmp_path / "outside.jpg")
    (tmp_path / "data" / "a.jpg").symlink_to(tmp_path / "outside.jpg")
    with pytest.raises(DataError, match="symlink out of the image root"):
        DatasetIndex.open(tmp_path / "a.arrow").file_at(0)


def test_real_boxes_survive_to_the_last_bit_in_the_truth(tmp_path: Path) -> None:
    table, _ = read_table(data_folder("coco_cc") / "annotations" / "val.json")
    write_index(tmp_path / "a.arrow", table)
    index = DatasetIndex.open(tmp_path / "a.arrow")
    truths = [index.truth_at(row) for row in range(len(index))]
    assert np.array_equal(np.concatenate([truth.boxes for truth in truths]), table.boxes)
    assert sum(int(truth.crowd.sum()) for truth in truths) == 7
    assert index.num_boxes == sum(len(index.target_at(row).boxes) for row in range(len(index))) == 488
