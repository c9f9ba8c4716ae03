import multiprocessing
import os

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.errors import LabelConflictError, StorageError
from raydet.labels.segment import list_segments
from raydet.labels.store import PseudoLabelStore, read_all
from tests.unit.labels.stored import rows, said


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
