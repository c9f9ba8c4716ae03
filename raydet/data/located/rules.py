"""What every set of located images must satisfy: what a set of classes must, and boxes with an inside."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from raydet.data.bad_images import OnBadImage
from raydet.data.classes.rules import usable as usable_images
from raydet.data.decode import image_size
from raydet.data.located.table import Floats, LocatedTable
from raydet.data.problems import ProblemLog
from raydet.data.threads import in_threads
from raydet.errors import DataError

ROUNDING_PX = 1.0  # annotators round outwards


def usable(
    table: LocatedTable,
    source: str,
    log: ProblemLog,
    *,
    is_measured: bool,
    decode_images: bool = False,
    on_bad_image: OnBadImage = "error",
) -> LocatedTable:
    """Check a set and return the images and boxes that are fit for use; everything left out is in `log`.

    Boxes that training never sees are no reason to stop: only where something `is_measured` by them are bad ones
    errors, and are image files opened for their size.
    """
    kept = usable_images(
        table.images, source, log, needs_labels=True, decode_images=decode_images, on_bad_image=on_bad_image
    )
    if len(kept) != len(table):
        table = table.take(_rows_of(kept.ids.to_pylist(), table))
    table = table.with_images(kept)
    bad = _faults(table, _sizes(table) if is_measured else None)
    for box, complaint in sorted(bad.items()):
        row = int(table.box_rows()[box])
        corners = ", ".join(f"{value:g}" for value in table.boxes[box])
        message = f"a box of image id {table.id_at(row)} {complaint}: {corners} (xyxy, pixels)"
        if is_measured:
            log.error("box", table.name_at(row), "", message, "correct the box or remove it")
        else:
            log.warn("box", table.name_at(row), "", message, "it is not used; training sees no box")
    return table.with_boxes(~np.isin(np.arange(len(table.boxes)), list(bad))) if bad else table


def _rows_of(ids: list[str], table: LocatedTable) -> np.ndarray:
    """Return the first row of each id: of two images with one id the first stays."""
    first: dict[str, int] = {}
    for row, image_id in enumerate(table.images.ids.to_pylist()):
        first.setdefault(image_id, row)
    return np.array([first[image_id] for image_id in ids], dtype=np.int64)


def _faults(table: LocatedTable, sizes: Floats | None) -> dict[int, str]:
    """Return what is wrong, by box; `sizes` `[D, 2]` are (height, width), NaN where it is not known."""
    boxes = table.boxes
    is_finite = np.isfinite(boxes).all(axis=1)
    has_inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    found = {int(box): "is not made of numbers" for box in np.flatnonzero(~is_finite)}
    found |= {int(box): "has no inside" for box in np.flatnonzero(is_finite & ~has_inside)}
    if sizes is not None:
        limits = sizes[table.box_rows()][:, [1, 0]]
        outside = (boxes[:, :2] < -ROUNDING_PX).any(axis=1) | (boxes[:, 2:] > limits + ROUNDING_PX).any(axis=1)
        found |= {int(box): "leaves its image" for box in np.flatnonzero(is_finite & has_inside & outside)}
    return found


def _sizes(table: LocatedTable) -> Floats:
    """Return (height, width) `[D, 2]` of images that have boxes and are files; NaN for the others, and for files that
    cannot be read, which others report."""
    found = np.full((len(table), 2), np.nan)
    rows = np.flatnonzero(table.has_boxes) if table.holds_files else np.zeros(0, dtype=np.int64)
    for row, size in zip(rows, _measured(table, rows), strict=True):
        found[row] = size
    return found


def _measured(table: LocatedTable, rows: np.ndarray) -> Iterator[tuple[float, float]]:
    def size(row: int) -> tuple[float, float]:
        try:
            file = table.file_at(row)
            return image_size(file) if file is not None else (np.nan, np.nan)
        except DataError:
            return np.nan, np.nan

    yield from in_threads(size, rows.tolist())
