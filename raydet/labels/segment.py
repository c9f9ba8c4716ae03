"""Segment files: immutable pieces of a label store, written aside and renamed, checked when they are read.

    v000000300-000000420.rank0.000007.5f3a91c2.arrow
      versions inside      writer  number crc32 of the file's bytes

The name says which versions are inside, so that whole files can be skipped or deleted without opening them, and carries
the checksum, because Arrow notices a truncated file but not a changed byte. Two writers never choose the same name.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from raydet.errors import UserError
from raydet.files import UNFINISHED, replacing

_NAME = re.compile(r"v(\d{9})-(\d{9})\.([\w-]+)\.(\d{6})\.([0-9a-f]{8})\.arrow")


class LabelStoreError(UserError):
    """A file of a label store cannot be used; the text names it."""


@dataclass(frozen=True, slots=True)
class SegmentName:
    """What a segment's file name says."""

    path: Path
    first: int  # lowest version inside
    last: int  # highest version inside
    writer: str
    number: int  # counts up per writer
    checksum: str

    def covers(self, version: int) -> bool:
        """Whether labels of this version may be inside."""
        return self.first <= version <= self.last


def list_segments(folder: Path) -> list[SegmentName]:
    """Return the finished segments of a folder by version, then by writer and number; unfinished ones are passed over.

    Raises LabelStoreError for an `.arrow` file with a name that no writer gives.
    """
    found = []
    for path in folder.glob("*.arrow"):
        if path.name.startswith(UNFINISHED):
            continue
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise LabelStoreError(f"{path}: not a segment of a label store; move it out of {folder}")
        first, last, writer, number, checksum = match.groups()
        found.append(SegmentName(path, int(first), int(last), writer, int(number), checksum))
    return sorted(found, key=lambda name: (name.first, name.last, name.writer, name.number))


def read_segment(name: SegmentName) -> pa.Table:
    """Map a segment into memory. Raises LabelStoreError where it is damaged, FileNotFoundError where it is gone."""
    try:
        with pa.memory_map(str(name.path)) as source:  # the mapping outlives the file object
            if f"{zlib.crc32(source.read_buffer()):08x}" != name.checksum:
                raise LabelStoreError(_damaged(name.path, "its bytes differ from the checksum in its name"))
            return pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid as error:
        raise LabelStoreError(_damaged(name.path, str(error))) from None


def write_segment(folder: Path, table: pa.Table, writer: str, number: int) -> SegmentName:
    """Write one segment so that it is either wholly there, and on the disk, or not at all."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table)
    content = sink.getvalue()
    first, last = version_range(table)
    checksum = f"{zlib.crc32(content):08x}"
    path = folder / f"v{first:09d}-{last:09d}.{writer}.{number:06d}.{checksum}.arrow"
    with replacing(path, needed=table.nbytes) as file:
        file.write(content)
    return SegmentName(path, first, last, writer, number, checksum)


def trim_segment(name: SegmentName, version: int) -> None:
    """Remove what is newer than `version`; safe if several processes do the same at once, and if one dies in it."""
    if name.first <= version:
        try:
            table = read_segment(name)
        except FileNotFoundError:
            return  # another process was faster; its result is the same file that this one would have written
        kept = table.filter(pc.less_equal(table["version"], version))
        write_segment(name.path.parent, kept, name.writer, name.number)
    name.path.unlink(missing_ok=True)


def version_range(table: pa.Table) -> tuple[int, int]:
    """Return the lowest and highest version in a non-empty table."""
    span = pc.min_max(table["version"]).as_py()
    return span["min"], span["max"]


def _damaged(path: Path, why: str) -> str:
    return (
        f"{path}: damaged: {why}. Delete it; labels that the run still needs are made again where their teacher's "
        f"weights exist, otherwise start from an earlier checkpoint"
    )
