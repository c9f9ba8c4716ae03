import multiprocessing
import os
import signal

import pytest

from raydet.labels import store as store_module
from raydet.labels.segment import LabelStoreError, list_segments
from raydet.labels.store import PseudoLabelStore, read_all
from tests.unit.labels.stored import rows, said


def test_segments_rotate_by_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "ROWS_PER_SEGMENT", 3)
    store = PseudoLabelStore(tmp_path, "w")
    for version in range(7):
        store.append(rows((version, "a")))
    assert len(list_segments(tmp_path)) == 2  # 7 rows: two full segments, one row in memory
    assert said(store, *((v, "a") for v in range(7))) == [97, 1097, 2097, 3097, 4097, 5097, 6097]
    store.flush()
    assert [table.num_rows for table in read_all(tmp_path)] == [3, 3, 1]


def test_segments_rotate_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "BYTES_PER_SEGMENT", 1)
    store = PseudoLabelStore(tmp_path, "w")
    store.append(rows((1, "a")))
    store.append(rows((1, "b")))
    assert len(list_segments(tmp_path)) == 2
    # of a segment that grows, all bytes count, and exactly so many are enough
    monkeypatch.setattr(store_module, "BYTES_PER_SEGMENT", 3 * rows((1, "c")).nbytes)
    for letter in "cd":
        store.append(rows((1, letter)))
    assert len(list_segments(tmp_path)) == 2
    store.append(rows((1, "e")))
    assert len(list_segments(tmp_path)) == 3


def test_a_half_written_segment_is_ignored_and_cleaned_by_its_writer(tmp_path):
    aside = tmp_path / ".writing-123-v000000001-000000001.w.000000.00000000.arrow"
    aside.write_bytes(b"ARROW1 and then the power went")
    assert list(read_all(tmp_path)) == []
    assert not PseudoLabelStore(tmp_path, "other").has((1, "a"))
    assert aside.exists()  # it may belong to a live writer
    PseudoLabelStore(tmp_path, "w")
    assert not aside.exists()


def _append_forever(folder):
    store = PseudoLabelStore(folder, "w")
    for version in range(10**9):
        store.append(rows(*((version, letter) for letter in "abcdef")))
        store.flush()


def test_a_killed_writer_leaves_whole_segments_only(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_append_forever, args=(tmp_path,))
    process.start()
    while len(list(tmp_path.glob("v*.arrow"))) < 5:
        assert process.is_alive()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    store = PseudoLabelStore(tmp_path, "w")
    versions = [name.last for name in list_segments(tmp_path)]
    assert versions == list(range(len(versions)))
    assert all(store.has((version, letter)) for version in versions for letter in "abcdef")
    store.append(rows((10**6, "a")))
    store.flush()  # and goes on under a new number
    assert len(list_segments(tmp_path)) == len(versions) + 1


@pytest.mark.parametrize("damage", ["truncated", "changed", "emptied"])
def test_a_damaged_segment_is_an_error_that_names_it(tmp_path, damage):
    store = PseudoLabelStore(tmp_path, "w")
    store.append(rows((1, "a")))
    store.flush()
    file = list_segments(tmp_path)[0].path
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"truncated": content[:-9], "changed": content, "emptied": b""}[damage])
    opened = PseudoLabelStore(tmp_path, "w")
    for _ in range(2):  # not only the first time
        with pytest.raises(LabelStoreError, match=file.name):
            opened.has((1, "a"))
    assert not opened.has((2, "a"))  # another version does not touch it
    with pytest.raises(LabelStoreError, match=file.name):
        list(read_all(tmp_path))


def test_a_half_written_segment_hides_no_finished_one(tmp_path):
    store = PseudoLabelStore(tmp_path, "w")
    for version in (1, 2):
        store.append(rows((version, "a")))
        store.flush()
    for name in ("v000000000-000000000.x", "v000000009-000000009.x"):  # whichever a folder lists first
        (tmp_path / f".writing-1-{name}.000000.00000000.arrow").write_bytes(b"ARROW1")
    assert [name.first for name in list_segments(tmp_path)] == [1, 2]


def test_a_writer_counts_its_own_segments_on_from_the_last_one(tmp_path):
    def numbers(writer):
        return [name.number for name in list_segments(tmp_path) if name.writer == writer]

    for version in (1, 2):
        store = PseudoLabelStore(tmp_path, "w")
        store.append(rows((version, "a")))
        store.flush()
    other = PseudoLabelStore(tmp_path, "z")
    other.append(rows((3, "a")))
    other.flush()
    assert (numbers("w"), numbers("z")) == ([0, 1], [0])
    store = PseudoLabelStore(tmp_path, "w")
    for version in (4, 5, 6):
        store.append(rows((version, "a")))
        store.flush()
    assert numbers("w") == [0, 1, 2, 3, 4]


def test_a_foreign_file_in_the_folder_is_an_error_that_names_it(tmp_path):
    (tmp_path / "mine.arrow").write_bytes(b"")
    with pytest.raises(LabelStoreError, match="mine.arrow"):
        PseudoLabelStore(tmp_path, "w")
