"""Labels read back from the files of a store."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from raydet.labels.convert import to_table
from raydet.labels.recall import recall
from raydet.labels.segment import LabelStoreError
from raydet.labels.store import PseudoLabelStore
from raydet.records import PseudoBoxes, TeacherRef


def label(image_id: str, version: int) -> PseudoBoxes:
    number = len(image_id) + version
    boxes = torch.arange(4.0 * number).reshape(-1, 4)
    ones = torch.ones(number)
    ref = TeacherRef(version, f"d{version}")
    return PseudoBoxes(image_id, ref, boxes, torch.zeros(number, dtype=torch.int64), ones, ones, 0.05)


def stored(folder: Path, writer: str, *keys: tuple[str, int]) -> PseudoLabelStore:
    store = PseudoLabelStore(folder, writer)
    for key in keys:
        store.append(to_table([label(*key)]))
        store.flush()  # a segment each
    return store


def test_what_is_wanted_is_found_whoever_wrote_it_and_nothing_else(tmp_path: Path):
    stored(tmp_path, "rank0", ("a", 1), ("b", 1), ("a", 3))
    stored(tmp_path, "rank1", ("c", 1), ("a", 1))  # the same label again, as two ranks may make it
    wanted = {1: {"a": 10, "c": 12}, 3: {"a": 20}}
    found = {key: (each.image_id, each.teacher.version, len(each)) for key, each in recall(tmp_path, wanted, {})}
    assert found == {10: ("a", 1, 2), 12: ("c", 1, 2), 20: ("a", 3, 4)}
    assert wanted == {1: {"a": 10, "c": 12}, 3: {"a": 20}}  # not touched
    assert list(recall(tmp_path, {}, {})) == [] and list(recall(tmp_path, {7: {}}, {})) == []


def test_labels_that_were_retired_in_memory_are_still_found(tmp_path: Path):
    store = stored(tmp_path, "rank0", ("a", 1), ("b", 5))
    store.retire(5)
    assert not store.has((1, "a"))
    assert [key for key, _ in recall(tmp_path, {1: {"a": 0}}, {})] == [0]


def test_what_is_gone_is_named(tmp_path: Path):
    stored(tmp_path, "rank0", ("a", 1))
    with pytest.raises(LabelStoreError, match="2 labels that were used are gone, such as that of image 'x' by.* 1"):
        list(recall(tmp_path, {1: {"a": 0, "x": 1}, 2: {"a": 2}}, {}))


def test_files_that_show_late_are_waited_for(tmp_path: Path):
    stored(tmp_path, "rank0", ("a", 1))
    late = threading.Timer(0.7, lambda: stored(tmp_path, "rank1", ("b", 1)))
    late.start()
    try:
        assert sorted(key for key, _ in recall(tmp_path, {1: {"a": 0, "b": 1}}, {}, timeout_s=30)) == [0, 1]
    finally:
        late.join()
