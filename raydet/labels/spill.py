"""Rows that are in no segment yet, in a file that outlives the process that wrote them.

A killed writer loses nothing that way: what it handed to the system is in the file, whole batch by whole batch. (A
machine that loses power may lose it; the checkpoint's flush is what guards against that.)
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from raydet.faults import writing


class Spill:
    """An append-only Arrow stream of one writer, deleted when its rows have become a segment."""

    def __init__(self, folder: Path, writer: str) -> None:
        self._path = folder / f".unflushed.{writer}.arrows"
        self._file: pa.NativeFile | None = None
        self._stream: pa.RecordBatchStreamWriter | None = None

    def add(self, table: pa.Table) -> None:
        """Append rows; they are the system's when this returns."""
        with writing(self._path, needed=table.nbytes):
            if self._stream is None:
                self._file = pa.OSFile(str(self._path), "wb")  # unbuffered
                self._stream = pa.ipc.new_stream(self._file, table.schema)
            self._stream.write_table(table)

    def clear(self) -> None:
        """Forget the rows."""
        if self._file is not None:
            self._file.close()
        self._file = self._stream = None
        self._path.unlink(missing_ok=True)

    def recover(self) -> list[pa.Table]:
        """Return what a killed writer of this name left; a batch that it did not finish is left out."""
        found: list[pa.Table] = []
        try:
            with pa.OSFile(str(self._path)) as file, pa.ipc.open_stream(file) as stream:
                found.extend(pa.Table.from_batches([batch]) for batch in stream)
        except FileNotFoundError:
            return []
        except (pa.ArrowInvalid, OSError):
            return found  # the end is cut off: killed in the middle of a batch
        return found
