"""What was appended survives the death of its writer."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from raydet.labels.spill import Spill
from raydet.labels.store import PseudoLabelStore, read_all


def rows(version: int, *ids: str) -> pa.Table:
    return pa.table({"image_id": list(ids), "version": [version] * len(ids), "digest": ["d"] * len(ids)})


def test_unflushed_labels_of_a_killed_writer_are_there_when_it_comes_back(tmp_path: Path):
    killed = PseudoLabelStore(tmp_path, "broker")
    killed.append(rows(3, "a", "b"))
    killed.append(rows(3, "b", "c"))  # b is there already
    back = PseudoLabelStore(tmp_path, "broker")  # without a flush or a close in between
    assert [back.has((3, image_id)) for image_id in ("a", "b", "c", "d")] == [True, True, True, False]
    assert sorted(sum((t["image_id"].to_pylist() for t in read_all(tmp_path)), [])) == ["a", "b", "c"]


def test_a_batch_that_was_cut_off_is_left_out_and_the_ones_before_it_are_kept(tmp_path: Path):
    spill = Spill(tmp_path, "broker")
    spill.add(rows(3, "a"))
    spill.add(rows(3, "b"))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    assert [t["image_id"].to_pylist() for t in Spill(tmp_path, "broker").recover()] == [["a"]]


def test_a_flush_leaves_no_spill_and_nothing_twice(tmp_path: Path):
    store = PseudoLabelStore(tmp_path, "broker")
    store.append(rows(3, "a"))
    store.flush()
    assert [path.suffix for path in tmp_path.iterdir()] == [".arrow"]
    store.append(rows(4, "a"))
    again = PseudoLabelStore(tmp_path, "broker")
    assert again.has((3, "a")) and again.has((4, "a"))
    assert sum(table.num_rows for table in read_all(tmp_path)) == 2


def test_a_file_that_is_no_stream_at_all_counts_as_cut_off(tmp_path: Path):
    (tmp_path / ".unflushed.broker.arrows").write_bytes(b"\x00\x01")
    assert not PseudoLabelStore(tmp_path, "broker").has((0, "a"))


def test_a_rewind_forgets_what_ranks_left_that_are_gone(tmp_path: Path):
    PseudoLabelStore(tmp_path, "rank1").append(rows(9, "a"))  # killed before a flush
    alone = PseudoLabelStore(tmp_path, "rank0")
    alone.drop_newer(8)
    alone.append(rows(9, "b").set_column(2, "digest", pa.array(["other"])))  # one rank's version 9 has other last bits
    alone.flush()
    assert not PseudoLabelStore(tmp_path, "rank1").has((9, "a"))  # and no conflict of two digests
