"""Labels that were used before, read back from the files of a store: by any process that sees the folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from raydet.errors import LabelConflictError
from raydet.labels.convert import from_table
from raydet.labels.schema import contradict
from raydet.labels.segment import LabelStoreError, list_segments, read_segment
from raydet.records import PseudoLabel
from raydet.text import plural

POLL_S = 0.5


def recall(
    folder: str | Path,
    wanted: Mapping[int, Mapping[str, int]],
    digests: Mapping[int, str],
    *,
    timeout_s: float = 0.0,
) -> Iterator[tuple[int, PseudoLabel]]:
    """Yield `wanted[version][image id]` with the label, for every label wanted, segment by segment.

    `digests`: of each version's weights, as far as they are known. A file system of several nodes may show a new file
    late: what is missing is looked for again, for `timeout_s` seconds. Raises LabelStoreError where it does not come,
    and for damaged files; LabelConflictError for labels of other weights.
    """
    missing = {version: dict(images) for version, images in wanted.items() if images}
    end, read = time.monotonic() + timeout_s, set[Path]()
    while True:
        for name in list_segments(Path(folder)):
            if name.path in read or not any(name.covers(version) for version in missing):
                continue
            try:
                table = read_segment(name)
            except FileNotFoundError:
                continue  # replaced since the listing, with the same labels
            read.add(name.path)
            for row, label in _found(table, missing):
                ref = label.teacher
                if contradict(known := digests.get(ref.version, ref.digest), ref.digest):
                    raise LabelConflictError(
                        f"{name.path}: labels of version {ref.version} are of teacher {ref.digest}, and this run's was "
                        f"{known}: they are another run's. Put this run's labels back, or start anew in another run.dir"
                    )
                yield row, label
        if not missing or time.monotonic() >= end:
            break
        time.sleep(POLL_S)
    if missing:
        version, images = next(iter(missing.items()))
        number = sum(map(len, missing.values()))
        raise LabelStoreError(
            f"{folder}: {plural(number, 'label that was used is', 'labels that were used are')} gone, such as that of "
            f"image {next(iter(images))!r} by the teacher of version {version}; if files were deleted there, start "
            "from an earlier checkpoint or anew"
        )


def _found(table: pa.Table, missing: dict[int, dict[str, int]]) -> Iterator[tuple[int, PseudoLabel]]:
    """Yield the wanted labels of one segment, and take them off the list."""
    rows, keys = [], []
    for row, (version, image_id) in enumerate(
        zip(table["version"].to_pylist(), table["image_id"].to_pylist(), strict=True)
    ):
        images = missing.get(version, {})
        if image_id in images:
            rows.append(row)
            keys.append(images.pop(image_id))
            if not images:
                del missing[version]
    if rows:
        yield from zip(keys, from_table(table.take(np.array(rows))), strict=True)
