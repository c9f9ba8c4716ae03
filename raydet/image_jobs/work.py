"""Which images wait, which are being worked on, which shards are complete. Pure: no clock, no process, no file.

A piece is what one call answers: consecutive images of one shard. It is the same whoever answers it, so the rows do not
depend on the number of actors. An image whose neighbours were lost with it is tried alone before it is given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import pyarrow as pa

from raydet.image_jobs.shards import Chunk
from raydet.text import plural

LOSSES_PER_PIECE = 2  # so often a piece is given to another actor before its images are tried one by one
LOSSES_ALONE = 2  # so often an image may be lost alone before it is skipped


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive images of one shard."""

    shard: int
    start: int  # place of the first image in the shard
    names: tuple[str, ...]
    losses: int = 0  # how often an actor was lost with it
    is_alone: bool = False  # one image, to be worked on while its actor does nothing else


@dataclass(slots=True)
class _Open:
    """A shard that is being worked on."""

    chunk: Chunk
    parts: dict[int, pa.Table] = field(default_factory=dict)  # by place of the first image
    rows: int = 0


class WorkList:
    """Hands out pieces and puts the answers together; holds as many shards as are being worked on."""

    def __init__(self, chunks: Iterable[Chunk], piece_images: int, schema: pa.Schema) -> None:
        """Take the chunks lazily, as they are needed; `schema`: of the answers."""
        self._schema = schema
        self._size = piece_images
        self._fresh = self._pieces(chunks)
        self._again: deque[Piece] = deque()
        self._suspects: deque[Piece] = deque()
        self._open: dict[int, _Open] = {}

    def next(self, *, is_idle: bool = True) -> Piece | None:
        """Return the next piece for an actor that does nothing (`is_idle`) or has a call; None where there is none now.

        While an image has to be tried alone, actors get nothing else until one of them is idle.
        """
        if self._suspects:
            return self._suspects.popleft() if is_idle else None
        if self._again:
            return self._again.popleft()
        return next(self._fresh, None)

    def done(self, piece: Piece, table: pa.Table) -> tuple[Chunk, pa.Table] | None:
        """Take the answer to a piece; return its chunk with all rows where that completes a shard."""
        assert table.num_rows == len(piece.names), f"{table.num_rows} answers for {len(piece.names)} images"
        shard = self._open[piece.shard]
        shard.parts[piece.start] = table
        shard.rows += table.num_rows
        if shard.rows < len(shard.chunk.names):
            return None
        del self._open[piece.shard]
        return shard.chunk, pa.concat_tables([shard.parts[start] for start in sorted(shard.parts)])

    def lost(self, piece: Piece, reason: str) -> tuple[Chunk, pa.Table] | None:
        """Take back a piece whose actor is gone; as `done` where that gives an image up."""
        piece = replace(piece, losses=piece.losses + 1)
        if piece.is_alone and piece.losses >= LOSSES_ALONE:
            actors = plural(piece.losses, "actor was", "actors were")
            why = f"{actors} lost while at work on this image alone; the last: {reason}"
            return self.done(piece, skipped(piece.names, [why], self._schema))
        if piece.is_alone:
            self._suspects.append(piece)
        elif piece.losses >= LOSSES_PER_PIECE:
            singles = (Piece(piece.shard, piece.start + i, (name,)) for i, name in enumerate(piece.names))
            self._suspects.extend(replace(single, is_alone=True) for single in singles)
        else:
            self._again.append(piece)
        return None

    def _pieces(self, chunks: Iterable[Chunk]) -> Iterator[Piece]:
        for chunk in chunks:
            self._open[chunk.shard] = _Open(chunk)
            for start in range(0, len(chunk.names), self._size):
                yield Piece(chunk.shard, start, chunk.names[start : start + self._size])


def skipped(names: Iterable[str], reasons: Iterable[str], schema: pa.Schema) -> pa.Table:
    """Return the rows of images of which nothing is said."""
    rows = [{"image": shown(name), "error": reason} for name, reason in zip(names, reasons, strict=True)]
    return pa.Table.from_pylist(rows, schema)


def shown(name: str) -> str:
    """Return a name as Unicode text: bytes that are none are written as escapes (such an image is always skipped)."""
    return name.encode("utf-8", "backslashreplace").decode()
