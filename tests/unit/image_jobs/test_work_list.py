from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.image_jobs.shards import Chunk
from raydet.image_jobs.work import Piece, WorkList, skipped
from raydet.label_files.labeller import SCHEMA


def plan(*sizes: int) -> list[Chunk]:
    """Shards of so many images, named shard/number."""
    return [Chunk(shard, tuple(f"{shard}/{n}" for n in range(size))) for shard, size in enumerate(sizes)]


def answer(piece: Piece) -> pa.Table:
    return pa.Table.from_pylist([{"image": name, "width": 1} for name in piece.names], SCHEMA)


def test_a_shard_is_complete_when_its_last_piece_is_answered_in_whatever_order():
    work = WorkList(plan(5, 2), 2, SCHEMA)
    a, b, c, d = (work.next() for _ in range(4))
    assert [piece.names for piece in (a, b, c, d)] == [("0/0", "0/1"), ("0/2", "0/3"), ("0/4",), ("1/0", "1/1")]
    assert work.next() is None
    assert work.done(c, answer(c)) is None
    assert work.done(a, answer(a)) is None
    chunk, table = work.done(d, answer(d))
    assert chunk.shard == 1
    chunk, table = work.done(b, answer(b))
    assert table["image"].to_pylist() == ["0/0", "0/1", "0/2", "0/3", "0/4"]


def test_an_image_that_costs_four_actors_is_skipped_and_its_neighbours_are_labelled():
    work = WorkList(plan(3), 3, SCHEMA)
    for _ in range(2):
        piece = work.next()
        assert not piece.is_alone
        assert work.lost(piece, "killed") is None
    assert work.next(is_idle=False) is None  # suspects are tried by an actor that does nothing else
    order, complete = [], None
    while (piece := work.next()) is not None:
        assert piece.is_alone and len(piece.names) == 1
        order.append(piece.names[0])
        complete = work.lost(piece, "killed") if piece.names == ("0/1",) else work.done(piece, answer(piece))
    assert order == ["0/0", "0/1", "0/2", "0/1"]
    assert complete[1]["error"].to_pylist() == [
        None,
        "2 actors were lost while at work on this image alone; the last: killed",
        None,
    ]


@settings()
@given(st.lists(st.integers(1, 9), max_size=5), st.integers(1, 4), st.randoms())
def test_every_image_is_answered_once_whatever_is_lost(sizes, piece_images, draw):
    work, found, working = WorkList(plan(*sizes), piece_images, SCHEMA), {}, []
    while True:
        piece = work.next(is_idle=True)
        if piece is not None:
            working.append(piece)
        if not working:
            break
        if piece is None or draw.random() < 0.5:
            piece = working.pop(draw.randrange(len(working)))
            complete = work.lost(piece, "x") if draw.random() < 0.4 else work.done(piece, answer(piece))
            if complete is not None:
                assert complete[0].shard not in found
                found[complete[0].shard] = complete[1]["image"].to_pylist()
    assert found == {chunk.shard: list(chunk.names) for chunk in plan(*sizes)}


def test_names_that_are_no_unicode_are_shown_with_escapes():
    assert skipped(["odd\udcff.jpg"], ["why"], SCHEMA)["image"].to_pylist() == ["odd\\udcff.jpg"]
