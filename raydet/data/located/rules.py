"""What every set of located images must satisfy: what a set of classes must, and boxes with an inside."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from raydet.data.bad_images import OnBadImage
from raydet.data.classes.rules import usable as usable_images
from raydet.data.declared_size import size_is_honest
from raydet.data.glance import Glance, glance
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
    errors, and are images opened for their size.
    """
    kept = usable_images(
        table.images, source, log, needs_labels=True, decode_images=decode_images, on_bad_image=on_bad_image
    )
    if len(kept) != len(table):
        table = table.take(_rows_of(kept.ids.to_pylist(), table))
    table = table.with_images(kept)
    sizes = np.full((len(table), 2), np.nan)
    if is_measured:
        sizes, is_honest = _sizes(table, source, log)
        table = table.with_boxes(is_honest[table.box_rows()])
    if count := _fractions(table, sizes):
        message = f"every box ({count:,}) lies between 0 and 1: these look like fractions of the image"
        fix = "boxes are in pixels: multiply by the image size"
        _report("boxes-normalised", source, message, fix, is_measured, log)
        return table.without_boxes()
    bad = _faults(table, sizes)
    for box, complaint in sorted(bad.items()):
        row = int(table.box_rows()[box])
        corners = ", ".join(f"{value:g}" for value in table.boxes[box])
        message = f"a box of image id {table.id_at(row)} {complaint}: {corners} (xyxy, pixels)"
        _report("box", table.name_at(row), message, "correct the box or remove it", is_measured, log)
    return table.with_boxes(~np.isin(np.arange(len(table.boxes)), list(bad))) if bad else table


def _report(code: str, file: str, message: str, fix: str, is_measured: bool, log: ProblemLog) -> None:
    if is_measured:
        log.error(code, file, "", message, fix)
    else:
        log.warn(code, file, "", message, "not used; training sees no box")


def _rows_of(ids: list[str], table: LocatedTable) -> np.ndarray:
    """Return the first row of each id: of two images with one id the first stays."""
    first: dict[str, int] = {}
    for row, image_id in enumerate(table.images.ids.to_pylist()):
        first.setdefault(image_id, row)
    return np.array([first[image_id] for image_id in ids], dtype=np.int64)


def _faults(table: LocatedTable, sizes: Floats) -> dict[int, str]:
    """Return what is wrong, by box; `sizes` `[D, 2]` are (height, width), NaN where it is not known."""
    boxes = table.boxes
    is_finite = np.isfinite(boxes).all(axis=1)
    has_inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    found = {int(box): "is not made of numbers" for box in np.flatnonzero(~is_finite)}
    found |= {int(box): "has no inside" for box in np.flatnonzero(is_finite & ~has_inside)}
    limits = sizes[table.box_rows()][:, [1, 0]]
    outside = (boxes[:, :2] < -ROUNDING_PX).any(axis=1) | (boxes[:, 2:] > limits + ROUNDING_PX).any(axis=1)
    is_known = np.isfinite(limits).all(axis=1)
    found |= {int(box): "leaves its image" for box in np.flatnonzero(is_known & is_finite & has_inside & outside)}
    return found


def _fractions(table: LocatedTable, sizes: Floats) -> int:
    """Return how many boxes there are where all lie between 0 and 1, in images of more than 2 pixels a side; else 0."""
    is_finite = np.isfinite(table.boxes).all(axis=1)
    boxes, limits = table.boxes[is_finite], sizes[table.box_rows()[is_finite]]
    return 0 if (np.abs(boxes) > 1.01).any() or (limits <= 2).any() else len(boxes)


def _sizes(table: LocatedTable, source: str, log: ProblemLog) -> tuple[Floats, NDArray[np.bool_]]:
    """Return (height, width) `[D, 2]` of the images that have boxes, and of which images `[D]` boxes can be used.

    They cannot where the annotations give another size. NaN: of images without boxes, and of those that cannot be read,
    which others report.
    """
    found, is_honest = np.full((len(table), 2), np.nan), np.ones(len(table), dtype=np.bool_)
    rows = np.flatnonzero(table.has_boxes).tolist()
    for row, seen in zip(rows, in_threads(partial(_seen, table), rows), strict=True):
        if seen is None:
            continue
        found[row] = seen.upright
        if table.declared is not None:
            height, width = table.declared[row].tolist()
            name, where = table.name_at(row), f"image id {table.id_at(row)}"
            is_honest[row] = size_is_honest((height, width), seen, name, log, source, where, has_boxes=True)
    return found, is_honest


def _seen(table: LocatedTable, row: int) -> Glance | None:
    try:
        return glance(table.file_at(row) or table.bytes_at(row), table.name_at(row))
    except DataError:
        return None
