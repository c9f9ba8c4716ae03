"""What every data set must satisfy, whatever its format: readable images, honest sizes, boxes inside their image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raydet.data.boxes.box_rules import OnBadBox, judge_boxes
from raydet.data.boxes.source import Source, Table
from raydet.data.decode import decode, stored_size
from raydet.data.paths import resolve_inside
from raydet.data.problems import ProblemLog
from raydet.errors import DataError

_THREADS = 8
_CHUNK = 4_096
_Mask = NDArray[np.bool_]


def usable(source: Source, on_bad_box: OnBadBox, log: ProblemLog, *, decode_images: bool = False) -> Table:
    """Check a data set and return the images and boxes that are fit for use; everything left out is in `log`.

    Image files are opened for their size, and with `decode_images` decoded in full.
    """
    if not source.ids:
        log.error("no-images", source.file, "", "no images", "add images or correct the path")
    sizes = _measure(source, log, decode_images)
    _report_shared_files(source, log)
    boxes, kept = judge_boxes(source, sizes, on_bad_box, log)
    return _table(source, sizes, boxes, sizes[:, 0] > 0, kept)


def _table(source: Source, sizes: NDArray[np.int64], boxes: NDArray[np.float64], images: _Mask, kept: _Mask) -> Table:
    order = np.argsort(source.rows, kind="stable")
    order = order[kept[order]]
    boxes = boxes[order]
    box_areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    areas = source.areas[order]
    counts = np.bincount(source.rows[order], minlength=len(source.ids))
    table = Table(
        root=source.root,
        class_names=source.class_names,
        ids=source.ids,
        files=source.files,
        sizes=sizes,
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes,
        classes=source.classes[order],
        crowd=source.crowd[order],
        areas=np.where(np.isnan(areas), box_areas, areas),
        federated=source.federated,
    )
    return table if images.all() else table.take(np.flatnonzero(images))


# --- images -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Image:
    """What a file turned out to be: its stored size and EXIF orientation, or what is wrong with it."""

    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    code: str = ""
    message: str = ""


def _measure(source: Source, log: ProblemLog, decode_images: bool) -> NDArray[np.int64]:
    """Return the image sizes `[N, 2]` (height, width) after EXIF rotation, 0 where there is no usable image."""
    sizes = np.zeros((len(source.ids), 2), dtype=np.int64)
    has_boxes = np.bincount(source.rows, minlength=len(source.ids)) > 0
    for row, image in enumerate(_inspect_all(source, decode_images)):
        where = f"image id {source.ids[row]}"
        if image.code:
            log.error(image.code, source.file, where, image.message)
            continue
        height, width = image.size
        upright = (width, height) if image.orientation >= 5 else (height, width)
        if _size_is_honest(source, row, image, upright, bool(has_boxes[row]), log):
            sizes[row] = upright
    return sizes


def _inspect_all(source: Source, decode_images: bool) -> Iterator[_Image]:
    def inspect(name: str) -> _Image:
        try:
            path = resolve_inside(source.root, name)
        except DataError as error:
            return _Image(code="file-name", message=str(error))
        try:
            size, orientation = stored_size(path)
            if decode_images:
                decode(path)
        except DataError as error:
            return _Image(code="image-unreadable" if os.path.exists(path) else "image-missing", message=str(error))
        return _Image(size, orientation)

    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(source.files), _CHUNK):
            yield from pool.map(inspect, source.files[start : start + _CHUNK])


def _size_is_honest(
    source: Source, row: int, image: _Image, upright: tuple[int, int], has_boxes: bool, log: ProblemLog
) -> bool:
    """Compare the annotated size with the file's: where they differ, the boxes belong to another picture."""
    declared = (int(source.sizes[row, 0]), int(source.sizes[row, 1]))
    where, name = f"image id {source.ids[row]}", source.files[row]
    said, is_really = f"{declared[1]} x {declared[0]} (width x height)", f"{upright[1]} x {upright[0]}"
    if 0 in declared:
        return True
    if declared == upright:
        if has_boxes and image.orientation != 1 and upright == image.size:
            message = f"{name} has EXIF orientation {image.orientation}; boxes are read in the turned picture"
            log.warn("exif-ambiguous", source.file, where, message, "if they are off, remove the EXIF tag of the file")
        return True
    if not has_boxes:
        if declared != image.size:
            message = f"listed as {said}, but {name} is {is_really}"
            log.warn("image-size", source.file, where, message, "is it the right file? Its own size is used")
        return True
    if declared == image.size:
        message = f"{name} is turned by its EXIF orientation {image.orientation}, but annotated as {said} before that"
        fix = "remove the EXIF orientation from the file, or annotate the turned picture"
        log.error("exif-rotated", source.file, where, message, fix)
        return False
    message = f"annotated as {said}, but {name} is {is_really}: the boxes belong to another size of the picture"
    log.error("image-size", source.file, where, message, "use the original image, or correct the size and the boxes")
    return False


def _report_shared_files(source: Source, log: ProblemLog) -> None:
    first: dict[str, int] = {}
    for row, name in enumerate(source.files):
        other = first.setdefault(name, row)
        if other != row:
            message = f"{name} is also image id {source.ids[other]}; the boxes of one are background in the other"
            log.warn("file-twice", source.file, f"image id {source.ids[row]}", message, "merge the two entries")
