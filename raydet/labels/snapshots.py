"""Snapshots of what a run has learned, for the report: Arrow files per evaluation, never read by training.

    RUN/diagnostics/step_00030000.KIND.arrow
    RUN/diagnostics/step_00030000.values.arrow   named lists of numbers, such as one per class

Kinds that one family alone has, and their schemas, are in its `snapshot.py`. Files are written aside and renamed, so
that no reader sees half of one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from raydet.files import replacing
from raydet.labels.segment import LabelStoreError

VALUES = pa.schema(
    [pa.field("name", pa.string(), nullable=False), pa.field("values", pa.list_(pa.float32()), nullable=False)]
)

_NAME = re.compile(r"step_(\d{8})\.(\w+)\.arrow")
_FLOATS = np.dtype(np.float32)

Array = NDArray[Any] | Tensor  # tensors: on the CPU, without gradients


def write_table(path: Path, table: pa.Table) -> None:
    """Write a snapshot to where `path_of` says."""
    with replacing(path) as file, pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table)


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Map a snapshot into memory and check it. Raises LabelStoreError that names a damaged file, or one of another
    schema."""
    try:
        with pa.memory_map(str(path)) as source:  # the mapping outlives the file object
            table = pa.ipc.open_file(source).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(path, (str(error).splitlines() or ["unreadable"])[0]) from None
    if table.schema != schema or any(table[f.name].null_count for f in schema if not f.nullable):
        raise damaged(path, "not a snapshot of this raydet")
    return table


def path_of(folder: Path, step: int, kind: str) -> Path:
    """Return where the snapshot of a kind lies."""
    return folder / f"step_{step:08d}.{kind}.arrow"


def steps_with(folder: Path, kind: str) -> list[int]:
    """Return the steps of which there is a snapshot of a kind, ascending; none where there is no folder."""
    names = [_NAME.fullmatch(path.name) for path in folder.glob("step_*.arrow")]
    return sorted(int(name[1]) for name in names if name is not None and name[2] == kind)


def damaged(path: Path, why: str) -> LabelStoreError:
    """Return the error that says of a snapshot why it cannot be used, and what to do."""
    return LabelStoreError(f"{path}: damaged: {why}. Delete it; the report goes on without this step")


def write_values(folder: Path, step: int, values: Mapping[str, Array]) -> None:
    """Write named lists of numbers; of a table its rows, one after the other."""
    flat = [np.asarray(each, dtype=_FLOATS).ravel() for each in values.values()]
    columns = [pa.array(list(values), pa.string()), pa.array(flat, VALUES.field("values").type)]
    write_table(path_of(folder, step, "values"), pa.Table.from_arrays(columns, schema=VALUES))


def read_values(folder: Path, step: int) -> dict[str, NDArray[np.float32]]:
    """Return the named lists of a step. Raises LabelStoreError that names a damaged file."""
    table = read_table(path_of(folder, step, "values"), VALUES)
    lists = (each.values.to_numpy() for each in table["values"])
    return dict(zip(table["name"].to_pylist(), lists, strict=True))


def remove_after(folder: Path, step: int) -> None:
    """Delete the snapshots of steps beyond `step`, which a resumed run takes anew, perhaps at other steps."""
    for path in folder.glob("step_*.arrow"):  # of whatever kind
        number = path.name.removeprefix("step_").split(".")[0]
        if number.isdecimal() and int(number) > step:
            path.unlink(missing_ok=True)
