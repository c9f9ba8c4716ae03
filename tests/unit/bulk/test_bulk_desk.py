from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.bulk.desk import Desk, Piece, skipped
from raydet.bulk.shards import SCHEMA, Chunk


def plan(*sizes: int) -> list[Chunk]:
    """Shards of so many images, named shard/number."""
    return [Chunk(shard, tuple(f"{shard}/{n}" for n in range(size))) for shard, size in enumerate(sizes)]


def answer(piece: Piece) -> pa.Table:
    return pa.Table.from_pylist([{"image": name, "width": 1} for name in piece.names], SCHEMA)


def test_a_shard_is_complete_when_its_last_piece_is_answered_in_whatever_order():
    desk = Desk(plan(5, 2), 2)
    a, b, c, d = (desk.next() for _ in range(4))
    assert [piece.names for piece in (a, b, c, d)] == [("0/0", "0/1"), ("0/2", "0/3"), ("0/4",), ("1/0", "1/1")]
    assert desk.next() is None
    assert desk.done(c, answer(c)) is None
    assert desk.done(a, answer(a)) is None
    chunk, table = desk.done(d, answer(d))
    assert chunk.shard == 1
    chunk, table = desk.done(b, answer(b))
    assert table["image"].to_pylist() == ["0/0", "0/1", "0/2", "0/3", "0/4"]


def test_an_image_that_costs_four_actors_is_skipped_and_its_neighbours_are_labelled():
    desk = Desk(plan(3), 3)
    for _ in range(2):
        piece = desk.next()
        assert not piece.is_alone
        assert desk.lost(piece, "killed") is None
    assert desk.next(is_idle=False) is None  # suspects are tried by an actor that does nothing else
    order, complete = [], None
    while (piece := desk.next()) is not None:
        assert piece.is_alone and len(piece.names) == 1
        order.append(piece.names[0])
        complete = desk.lost(piece, "killed") if piece.names == ("0/1",) else desk.done(piece, answer(piece))
    assert order == ["0/0", "0/1", "0/2", "0/1"]
    assert complete[1]["error"].to_pylist() == [
        None,
        "2 actors were lost while at work on this image alone; the last: killed",
        None,
    ]


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), max_size=5), st.integers(1, 4), st.randoms())
def test_every_image_is_answered_once_whatever_is_lost(sizes, piece_images, draw):
    desk, found, working = Desk(plan(*sizes), piece_images), {}, []
    while True:
        piece = desk.next(is_idle=True)
        if piece is not None:
            working.append(piece)
        if not working:
            break
        if piece is None or draw.random() < 0.5:
            piece = working.pop(draw.randrange(len(working)))
            complete = desk.lost(piece, "x") if draw.random() < 0.4 else desk.done(piece, answer(piece))
            if complete is not None:
                assert complete[0].shard not in found
                found[complete[0].shard] = complete[1]["image"].to_pylist()
    assert found == {chunk.shard: list(chunk.names) for chunk in plan(*sizes)}


def test_names_that_are_no_unicode_are_shown_with_escapes():
    assert skipped(["odd\udcff.jpg"], ["why"])["image"].to_pylist() == ["odd\\udcff.jpg"]
