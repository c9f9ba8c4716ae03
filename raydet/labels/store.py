"""PseudoLabelStore: what teachers said, append-only on disk, looked up by (version, image id).

Rows are kept in memory, and in a file that outlives the process (`raydet.labels.spill`), until a segment is full or
`flush()` is called; then they are one immutable Arrow file that any process may read. Each writer has its own name,
so several can share a folder. Any Arrow schema will do that starts with the key columns of `raydet.labels.schema`.
Within one store a version has exactly one digest.

Damage is never passed over: reading a file that is not what was written raises LabelStoreError with its name. Files
that a killed writer did not finish are not damage; they never got their final name.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from raydet.errors import LabelConflictError
from raydet.files import make_folder, remove_unfinished
from raydet.labels.desk import Key
from raydet.labels.schema import KEY_FIELDS, contradict
from raydet.labels.segment import (
    SegmentName,
    list_segments,
    read_segment,
    trim_segment,
    write_segment,
)
from raydet.labels.spill import Spill

ROWS_PER_SEGMENT = 4096
BYTES_PER_SEGMENT = 32 * 2**20
CHECKPOINTS_KEPT = 2  # the newest so many flushes whose labels are never deleted, so that a run can resume from them


class _Rows:
    """Rows that belong together: growing in memory, or one segment. Row numbers are the same in both."""

    def __init__(self, *tables: pa.Table) -> None:
        self._tables: list[pa.Table] = []
        self._starts: list[int] = []  # row number at which each table starts
        self.count = self.bytes = 0
        for table in tables:
            self.add(table)

    def add(self, table: pa.Table) -> None:
        self._tables.append(table)
        self._starts.append(self.count)
        self.count += table.num_rows
        self.bytes += table.nbytes

    def locate(self, number: int) -> tuple[pa.Table, int]:
        """Return the table that holds a row, and the row's number in it."""
        place = bisect_right(self._starts, number) - 1
        return self._tables[place], number - self._starts[place]

    def joined(self) -> pa.Table:
        return pa.concat_tables(self._tables).combine_chunks()

    def replace_by(self, table: pa.Table) -> None:
        self._tables, self._starts = [table], [0]


class PseudoLabelStore:
    """One writer's view of a folder of labels: its own rows, and those of all others at the time of opening."""

    def __init__(self, folder: str | Path, writer: str, *, keep_versions: int | None = None) -> None:
        """Open or create. `writer` (letters, digits, - and _) must be used by one process at a time.

        `keep_versions`: at a flush delete files older than so many newest versions, but never what one of the last two
        flushes (checkpoints) or the present still needs; default: delete nothing.
        """
        if not re.fullmatch(r"[\w-]+", writer):
            raise ValueError(f"writer {writer!r}: use letters, digits, - and _")
        self.folder = Path(folder)
        make_folder(self.folder)
        self._writer = writer
        self._keep_versions = keep_versions
        self._oldest_needed = 0
        self._needed_at_flush: deque[int] = deque(maxlen=CHECKPOINTS_KEPT + 1)
        self._versions: set[int] = set()  # appended by this writer, for keep_versions
        self._number = 0  # of the next segment
        self._growing = _Rows()
        self._unread: list[SegmentName] = []
        self._index: dict[int, dict[str, tuple[_Rows, int]]] = {}
        self._digests: dict[int, str] = {}
        self._spill = Spill(self.folder, writer)
        remove_unfinished(self.folder, f"*.{writer}.*")  # by this writer, when it was killed
        self._open()
        for table in self._spill.recover():
            self._take_in(table)
        self._write()

    def append(self, table: pa.Table) -> None:
        """Add labels. What is there already is left as it is.

        Raises LabelConflictError, and adds nothing, where a version comes with a second digest.
        """
        new = self._take_in(table)
        if new.num_rows:
            self._spill.add(new)
        if self._growing.count >= ROWS_PER_SEGMENT or self._growing.bytes >= BYTES_PER_SEGMENT:
            self._write()

    def _take_in(self, table: pa.Table) -> pa.Table:
        """Add labels in memory; return those that were new."""
        if not table.schema.names[: len(KEY_FIELDS)] == [key.name for key in KEY_FIELDS]:
            raise ValueError(f"label tables start with the columns image_id, version, digest; got {table.schema.names}")
        versions, ids, digests = (table[name].to_pylist() for name in ("version", "image_id", "digest"))
        for version, digest in sorted(set(zip(versions, digests, strict=True))):
            self._of_version(version)
            self._note_digest(version, digest)
        new = [row for row, key in enumerate(zip(versions, ids, strict=True)) if not self.has(key)]
        new = list({(versions[row], ids[row]): row for row in reversed(new)}.values())[::-1]  # once each
        if not new:
            return table.slice(0, 0)
        for row, number in zip(new, range(self._growing.count, self._growing.count + len(new)), strict=True):
            self._index.setdefault(versions[row], {})[ids[row]] = (self._growing, number)
        self._versions.update(versions[row] for row in new)
        added = table if len(new) == table.num_rows else table.take(new)
        self._growing.add(added)
        return added

    def has(self, key: Key) -> bool:
        """Whether there is a label for (version, image id)."""
        return key[1] in self._of_version(key[0])

    def get(self, keys: Sequence[Key]) -> pa.Table:
        """Return one row per key, in the order of the keys. Raises KeyError naming what is missing."""
        missing = [key for key in keys if not self.has(key)]
        if missing:
            raise KeyError(f"{len(missing)} labels are not in {self.folder}: {missing[:10]}")
        if not keys:
            raise ValueError("get() needs at least one key: an empty store has no schema")
        by_table: dict[int, tuple[pa.Table, list[int], list[int]]] = {}
        for place, (version, image_id) in enumerate(keys):
            rows, number = self._index[version][image_id]
            table, row = rows.locate(number)
            _, numbers, places = by_table.setdefault(id(table), (table, [], []))
            numbers.append(row)
            places.append(place)
        parts = [table.take(numbers) for table, numbers, _ in by_table.values()]
        found = pa.concat_tables(parts)
        if len(parts) > 1:  # else they are in order: a teacher answers what was asked for together in one table
            order = [place for _, _, places in by_table.values() for place in places]
            found = found.take(sorted(range(len(keys)), key=order.__getitem__))
        return found.combine_chunks()

    def flush(self) -> None:
        """Write everything to disk and wait until it is there. Call it at each checkpoint."""
        self._write()
        if self._keep_versions is not None:
            self._delete_old(self._keep_versions)

    def drop_newer(self, version: int) -> None:
        """Delete all labels above `version`, whoever wrote them, and read what the others have written until now.

        Retired labels can be had again. Several processes may do so at once, while none appends.
        """
        self._write()
        for leftover in self.folder.glob(".unflushed.*"):  # of ranks that are gone: made again, maybe by other weights
            leftover.unlink(missing_ok=True)
        for name in list_segments(self.folder):
            if name.last > version:
                trim_segment(name, version)
        self._versions = {v for v in self._versions if v <= version}
        self._needed_at_flush.clear()
        self._oldest_needed = 0  # the steps that are repeated may need what had been retired
        self._open()

    def retire(self, version: int) -> None:
        """Forget labels below `version` here, to bound the memory; the files stay (see `keep_versions`)."""
        self._oldest_needed = max(self._oldest_needed, version)
        self._index = {v: rows for v, rows in self._index.items() if v >= version}
        self._digests = {v: digest for v, digest in self._digests.items() if v >= version}
        self._unread = [name for name in self._unread if name.last >= version]

    def _open(self) -> None:
        names = list_segments(self.folder)
        self._unread = [name for name in names if name.last >= self._oldest_needed]
        self._number = max((name.number for name in names if name.writer == self._writer), default=-1) + 1
        self._growing = _Rows()
        self._index, self._digests = {}, {}

    def _of_version(self, version: int) -> dict[str, tuple[_Rows, int]]:
        """Return the index of a version; segments are read when one of their versions is first asked for."""
        for name in [name for name in self._unread if name.covers(version)]:
            self._add_to_index(_Rows(read_segment(name)))
            self._unread.remove(name)
        return self._index.get(version, {})

    def _add_to_index(self, rows: _Rows) -> None:
        table = rows.joined()
        columns = (table[name].to_pylist() for name in ("version", "image_id", "digest"))
        for number, (version, image_id, digest) in enumerate(zip(*columns, strict=True)):
            if version >= self._oldest_needed:
                self._note_digest(version, digest)
                self._index.setdefault(version, {}).setdefault(image_id, (rows, number))

    def _note_digest(self, version: int, digest: str) -> None:
        known = self._digests.setdefault(version, digest)
        if contradict(known, digest):
            raise LabelConflictError(
                f"{self.folder}: version {version} has labels of teacher {known} and of teacher {digest}. Labels of "
                f"two different runs do not go into one folder: use another run.dir"
            )

    def _write(self) -> None:
        if self._growing.count:
            rows = self._growing
            name = write_segment(self.folder, rows.joined(), self._writer, self._number)
            self._number += 1
            self._growing = _Rows()  # only now: if the disk is full, the rows stay and the next flush fails as well
            self._spill.clear()
            rows.replace_by(read_segment(name))  # the index stays valid; the memory is now the file's

    def _delete_old(self, keep_versions: int) -> None:
        if not self._needed_at_flush or self._needed_at_flush[-1] != self._oldest_needed:
            self._needed_at_flush.append(self._oldest_needed)  # several ranks flush at the same checkpoint
        if len(self._needed_at_flush) <= CHECKPOINTS_KEPT or len(self._versions) < keep_versions:
            return
        newest = sorted(self._versions)[-keep_versions:]
        oldest_kept = min(newest[0], self._needed_at_flush[0])
        for name in list_segments(self.folder):
            if name.writer == self._writer and name.last < oldest_kept:
                name.path.unlink(missing_ok=True)
        self._versions = {v for v in self._versions if v >= oldest_kept}


def read_all(folder: str | Path) -> Iterator[pa.Table]:
    """Yield the labels of a folder segment by segment, oldest version first: bounded memory, for reports.

    A label can occur twice, identically, where a process was killed in `drop_newer`. Raises LabelStoreError on damage.
    """
    for name in list_segments(Path(folder)):
        try:
            yield read_segment(name)
        except FileNotFoundError:
            continue  # deleted since the listing, by keep_versions or a restart
