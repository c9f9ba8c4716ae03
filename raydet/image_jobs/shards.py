"""Shards: Parquet files of consecutive images of the listing. A shard that exists is finished; there is no half one.

shards/part-00000012.parquet holds what was said of images 12 * size ... 13 * size - 1 of listing.jsonl. Its
metadata (`raydet`) says of which names and settings, so that no shard of another job is taken for ours.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raydet.errors import DataError
from raydet.files import replacing
from raydet.image_jobs.listing import Listing

_KEY = b"raydet"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ShardNote:
    """What a shard says about itself."""

    shard: int
    names: str  # SHA-256 of the names, see `Chunk.digest`
    settings: str  # digest of the job's settings
    images: int
    skipped: int
    format: int = _FORMAT


@dataclass(frozen=True, slots=True)
class Chunk:
    """The images of one shard."""

    shard: int
    names: tuple[str, ...]

    def digest(self) -> str:
        """Return the SHA-256 of the names, in order."""
        content = hashlib.sha256()
        for name in self.names:
            content.update(json.dumps(name).encode() + b"\n")
        return content.hexdigest()


def chunks(listing: Listing, size: int) -> Iterator[Chunk]:
    """Cut the listing into shards, reading it as far as needed."""
    lines = listing.lines()
    for shard in itertools.count():
        names = tuple(json.loads(line) for line in itertools.islice(lines, size))
        if not names:
            return
        yield Chunk(shard, names)


def shard_path(folder: Path, shard: int) -> Path:
    """Return where a shard lies."""
    return folder / f"part-{shard:08d}.parquet"


def write_shard(folder: Path, chunk: Chunk, table: pa.Table, settings: str) -> None:
    """Write one finished shard: wholly there, and on the disk, or not at all."""
    assert table.num_rows == len(chunk.names), f"shard {chunk.shard}: {table.num_rows} rows, {len(chunk.names)} names"
    skipped = table.num_rows - table["error"].null_count
    note = ShardNote(chunk.shard, chunk.digest(), settings, table.num_rows, skipped)
    table = table.replace_schema_metadata({_KEY: json.dumps(asdict(note)).encode()})
    with replacing(shard_path(folder, chunk.shard), needed=table.nbytes) as stream:
        pq.write_table(table, stream, compression="zstd", write_page_checksum=True)


def finished(folder: Path, chunk: Chunk, settings: str) -> ShardNote | None:
    """Return what the chunk's shard says, None where there is none or it cannot be opened (it is then made again).

    Raises DataError where it is the shard of other images or settings.
    """
    path = shard_path(folder, chunk.shard)
    try:
        note = ShardNote(**json.loads(pq.read_metadata(path).metadata[_KEY]))
    except (OSError, ValueError, TypeError, KeyError):  # not there, cut off, not ours
        return None
    if (note.shard, note.names, note.settings, note.format) != (chunk.shard, chunk.digest(), settings, _FORMAT):
        raise DataError(
            f"{path}: holds other images or was made with other settings than this job; move it out of {folder}"
        )
    return note


def read_shard(path: Path, columns: Sequence[str], later: Mapping[str, pa.DataType] | None = None) -> pa.Table:
    """Read columns of a shard, in this order. Raises DataError where it is damaged.

    `later`: those of them that shards of older versions do not have, and their types; they are null there.
    """
    try:
        known = set(pq.read_schema(path).names)
        missing = {name: type_ for name, type_ in (later or {}).items() if name not in known}
        own = [name for name in columns if name not in missing]
        table = pq.read_table(path, columns=own, page_checksum_verification=True)
    except (OSError, ValueError) as error:  # pyarrow's own errors are among both
        raise DataError(f"{path}: damaged: {error}; delete it and run the same command again") from None
    for name, type_ in missing.items():
        table = table.append_column(name, pa.nulls(len(table), type_))
    return table.select(list(columns))
