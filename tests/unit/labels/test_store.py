import multiprocessing
import os
import signal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.errors import LabelConflictError, StorageError
from raydet.labels import store as store_module
from raydet.labels.schema import KEY_FIELDS
from raydet.labels.segment import LabelStoreError, list_segments
from raydet.labels.store import PseudoLabelStore, read_all

SCHEMA = pa.schema([*KEY_FIELDS, pa.field("said", pa.int64())])  # any schema with the key columns will do


def rows(*keys: tuple[int, str], digest: str = "d") -> pa.Table:
    columns = {
        "image_id": [image_id for _, image_id in keys],
        "version": [version for version, _ in keys],
        "digest": [f"{digest}{version}" for version, _ in keys],
        "said": [1000 * version + ord(image_id[0]) for version, image_id in keys],
    }
    return pa.table(columns, schema=SCHEMA)


def said(store, *keys):
    return store.get(keys)["said"].to_pylist()


def test_labels_come_back_in_the_order_asked_for_from_memory_and_from_files(tmp_path):
    store = PseudoLabelStore(tmp_path, "w")
    store.append(rows((1, "a"), (1, "b")))
    store.flush()
    store.append(rows((2, "a"), (1, "c")))
    # 1000 * version + code of the letter: a = 97, b = 98, c = 99
    assert said(store, (1, "c"), (2, "a"), (1, "a"), (1, "b"), (1, "a")) == [1099, 2097, 1097, 1098, 1097]
    assert not store.has((2, "b"))
    with pytest.raises(KeyError, match="2, 'b'"):
        store.get([(1, "a"), (2, "b")])


def test_what_was_appended_is_there_for_the_next_process_flushed_or_not(tmp_path):
    store = PseudoLabelStore(tmp_path, "w")
    store.append(rows((1, "a")))
    store.flush()
    store.append(rows((1, "b")))
    reopened = PseudoLabelStore(tmp_path, "w")
    assert said(reopened, (1, "b"), (1, "a")) == [1098, 1097]
    assert said(PseudoLabelStore(tmp_path, "other"), (1, "b"), (1, "a")) == [1098, 1097]  # opening made a segment of it


def test_a_label_is_stored_once(tmp_path):
    store = PseudoLabelStore(tmp_path, "w")
    store.append(rows((1, "a"), (1, "a"), (1, "b")))
    store.append(rows((1, "b"), (1, "a")))
    store.flush()
    assert sum(table.num_rows for table in read_all(tmp_path)) == 2


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


def test_one_version_has_one_digest(tmp_path):
    store = PseudoLabelStore(tmp_path, "w")
    store.append(rows((1, "a"), digest="d"))
    with pytest.raises(LabelConflictError, match="version 1 .* d1 .* e1"):
        store.append(rows((1, "b"), digest="e"))
    store.flush()
    with pytest.raises(LabelConflictError, match="version 1"):  # also against what is on disk
        PseudoLabelStore(tmp_path, "other").append(rows((1, "b"), digest="e"))


def test_several_writers_share_a_folder_and_read_each_other_after_a_rewind(tmp_path):
    first, second = PseudoLabelStore(tmp_path, "rank0"), PseudoLabelStore(tmp_path, "rank1")
    first.append(rows((1, "a")))
    second.append(rows((1, "b")))
    first.flush()
    second.flush()
    first.drop_newer(1)
    assert said(first, (1, "b"), (1, "a")) == [1098, 1097]
    assert len(list_segments(tmp_path)) == 2


def test_a_rewind_removes_newer_labels_of_every_writer_and_keeps_the_rest(tmp_path):
    other = PseudoLabelStore(tmp_path, "rank1")
    other.append(rows((1, "x"), (3, "x")))
    other.append(rows((4, "x")))
    other.flush()
    store = PseudoLabelStore(tmp_path, "rank0")
    store.append(rows((2, "a"), (3, "a")))
    store.drop_newer(2)
    for opened in (store, PseudoLabelStore(tmp_path, "rank1")):
        assert [opened.has(key) for key in ((1, "x"), (2, "a"), (3, "a"), (3, "x"), (4, "x"))] == [1, 1, 0, 0, 0]
    store.append(rows((3, "a"), digest="other"))  # the version may now be another teacher's


def test_a_rewind_that_was_killed_half_way_is_finished_by_the_next(tmp_path, monkeypatch):
    store = PseudoLabelStore(tmp_path, "w")
    store.append(rows((1, "a"), (2, "a")))
    store.flush()
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.drop_newer(1)
    assert len(list_segments(tmp_path)) == 2  # the trimmed copy is there, the original as well
    again = PseudoLabelStore(tmp_path, "w")
    assert said(again, (1, "a")) == [1097]
    again.drop_newer(1)
    assert not again.has((2, "a")) and again.has((1, "a"))
    assert [(name.first, name.last) for name in list_segments(tmp_path)] == [(1, 1)]


def _rewind(folder, version):
    PseudoLabelStore(folder, f"rank{os.getpid()}").drop_newer(version)


def test_several_processes_may_rewind_at_once(tmp_path):
    for writer in ("a", "b", "c"):
        store = PseudoLabelStore(tmp_path, writer)
        for version in range(20):
            store.append(rows((version, "i"), (version + 1, "i")))
            store.flush()
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_rewind, args=(tmp_path, 10)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    store = PseudoLabelStore(tmp_path, "a")
    assert [v for v in range(22) if store.has((v, "i"))] == list(range(11))
    assert max(name.last for name in list_segments(tmp_path)) == 10


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


def test_retired_labels_leave_the_memory_but_not_the_disk(tmp_path):
    store = PseudoLabelStore(tmp_path, "w")
    for version in range(5):
        store.append(rows((version, "a")))
    store.flush()
    store.retire(3)
    assert [store.has((v, "a")) for v in range(5)] == [False, False, False, True, True]
    assert sum(table.num_rows for table in read_all(tmp_path)) == 5


def test_a_rewind_brings_back_what_was_retired(tmp_path):
    store = PseudoLabelStore(tmp_path, "w")
    for version in range(1, 10):
        store.append(rows((version, "a")))
    store.retire(9)
    store.drop_newer(7)  # back to step 7, whose labels are of version 6
    assert [v for v in range(10) if store.has((v, "a"))] == [1, 2, 3, 4, 5, 6, 7]


def test_rows_that_could_not_be_written_are_not_taken_for_written(tmp_path, monkeypatch):
    def disk_is_full(*_):
        raise OSError(28, "No space left on device")

    store = PseudoLabelStore(tmp_path, "w")
    store.append(rows((1, "a")))
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", disk_is_full)
        for _ in range(2):  # not only the first time
            with pytest.raises(StorageError, match="the disk is full"):
                store.flush()
    assert not list_segments(tmp_path)
    store.flush()
    assert said(PseudoLabelStore(tmp_path, "w"), (1, "a")) == [1097]


def test_keep_versions_never_deletes_what_the_last_two_checkpoints_need(tmp_path):
    store = PseudoLabelStore(tmp_path, "w", keep_versions=1)
    for step in range(1, 7):  # a checkpoint after each; it needs the version itself and the one before
        store.append(rows((step, "a")))
        store.retire(step - 1)
        store.flush()
        store.flush()  # a second rank at the same checkpoint
    # the checkpoints of steps 4, 5 (complete) and 6 (being written) need versions from 3 on
    assert [name.first for name in list_segments(tmp_path)] == [3, 4, 5, 6]


def test_nothing_is_deleted_by_default(tmp_path):
    store = PseudoLabelStore(tmp_path, "w")
    for step in range(1, 7):
        store.append(rows((step, "a")))
        store.retire(step)
        store.flush()
    assert len(list_segments(tmp_path)) == 6


def test_misuse_is_refused(tmp_path):
    with pytest.raises(ValueError, match="writer"):
        PseudoLabelStore(tmp_path, "../w")
    with pytest.raises(ValueError, match="image_id, version, digest"):
        PseudoLabelStore(tmp_path, "w").append(pa.table({"version": [1]}))
    with pytest.raises(ValueError, match="at least one key"):
        PseudoLabelStore(tmp_path, "w").get([])


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc")), min_size=1)),
        st.tuples(st.sampled_from(["flush", "reopen"]), st.none()),
        st.tuples(st.just("drop_newer"), st.integers(0, 5)),
    ),
    max_size=12,
)


@settings(max_examples=40)
@given(ACTIONS)
def test_the_store_holds_what_a_dictionary_would(tmp_path_factory, actions):
    folder = tmp_path_factory.mktemp("store")
    store, there = PseudoLabelStore(folder, "w"), set()
    for action, argument in actions:
        if action == "append":
            store.append(rows(*argument))
            there |= set(argument)
        elif action == "flush":
            store.flush()
        elif action == "reopen":
            store = PseudoLabelStore(folder, "w")
        else:
            store.drop_newer(argument)
            there = {key for key in there if key[0] <= argument}
        assert {key for key in ((v, i) for v in range(6) for i in "abc") if store.has(key)} == there
        if there:
            assert said(store, *sorted(there)) == [1000 * version + ord(letter) for version, letter in sorted(there)]
