"""What every data set must satisfy, whatever its format: readable images, honest sizes, boxes inside their image."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raydet.data.decode import decode, stored_size
from raydet.data.paths import resolve_inside
from raydet.data.problems import ProblemLog
from raydet.data.source import Source, Table
from raydet.errors import DataError

OnBadBox = Literal["error", "drop", "clip"]
ROUNDING_PX = 1.0  # annotators round outwards: so far outside, a box is clipped without a word
CROWDED = 1_000  # boxes in one image
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
    has_file = sizes[:, 0] > 0
    _report_shared_files(source, log)
    in_pixels = source.boxes * sizes[source.rows][:, [1, 0, 1, 0]] if source.relative else source.boxes
    boxes, kept = _judge_boxes(source, in_pixels, sizes, on_bad_box, log)
    _report_odd_boxes(source, boxes, kept, log)
    return _table(source, sizes, boxes, has_file, kept)


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
        if not path.exists():
            return _Image(
                code="image-missing", message=f"{path}: no such image file; copy it there or correct the name"
            )
        try:
            size, orientation = stored_size(path)
            if decode_images:
                decode(path)
        except DataError as error:
            return _Image(code="image-unreadable", message=str(error))
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
    shown = f"{declared[1]} x {declared[0]} (width x height)"
    if declared == upright:
        if has_boxes and image.orientation != 1 and upright == image.size:
            message = f"{name} has EXIF orientation {image.orientation}; boxes are read in the rotated picture"
            log.warn("exif-ambiguous", source.file, where, message, "if they are off, remove the EXIF tag of the file")
    elif not has_boxes or 0 in declared:
        if 0 not in declared and declared != image.size:
            message = f"listed as {shown}, but {name} is {upright[1]} x {upright[0]}"
            log.warn("image-size", source.file, where, message, "is it the right file? Its own size is used")
    elif declared == image.size:
        message = f"{name} is turned by its EXIF orientation {image.orientation}, but annotated as {shown} before that"
        fix = "remove the EXIF orientation from the file, or annotate the turned picture"
        log.error("exif-rotated", source.file, where, message, fix)
        return False
    else:
        message = f"annotated as {shown}, but {name} is {upright[1]} x {upright[0]}"
        fix = "the boxes belong to another size of the picture; use the original image or correct size and boxes"
        log.error("image-size", source.file, where, message, fix)
        return False
    return True


def _report_shared_files(source: Source, log: ProblemLog) -> None:
    first: dict[str, int] = {}
    for row, name in enumerate(source.files):
        other = first.setdefault(name, row)
        if other != row:
            message = f"{name} is also image id {source.ids[other]}; the boxes of one are background in the other"
            log.warn("file-twice", source.file, f"image id {source.ids[row]}", message, "merge the two entries")


# --- boxes ------------------------------------------------------------------------------------------------------------


def _judge_boxes(
    source: Source, boxes: NDArray[np.float64], sizes: NDArray[np.int64], on_bad_box: OnBadBox, log: ProblemLog
) -> tuple[NDArray[np.float64], _Mask]:
    """Return the boxes `[B, 4]`, clipped to their images, and which of them `[B]` are usable."""
    limits = sizes[source.rows][:, [1, 0, 1, 0]].astype(np.float64)
    measurable = limits[:, 0] > 0  # boxes of images that were refused go with them
    clipped = np.clip(boxes, 0.0, limits)
    finite: _Mask = np.all(np.isfinite(boxes), axis=1)
    positive: _Mask = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    overlap: _Mask = np.all(clipped[:, 2:] > clipped[:, :2], axis=1)
    near = np.abs(np.where(finite[:, None], boxes - clipped, 0.0)) <= ROUNDING_PX
    inside: _Mask = np.all(near, axis=1) & overlap
    if _is_misread(source, boxes, limits, measurable & finite, measurable & positive & ~inside, log):
        return clipped, np.zeros_like(finite)
    kinds = {
        "box-not-finite": (~finite, "has NaN or infinity in its bbox"),
        "box-degenerate": (finite & ~positive, "has no area: width and height must be above 0"),
        "box-outside": (finite & positive & ~inside, "leaves its image"),
    }
    kept = measurable.copy()
    for code, (bad, complaint) in kinds.items():
        can_clip = overlap if code == "box-outside" else np.zeros_like(overlap)
        for box in np.flatnonzero(bad & measurable):
            kept[box] = on_bad_box == "clip" and can_clip[box]
            _report_bad_box(source, int(box), code, complaint, boxes, limits, on_bad_box, bool(kept[box]), log)
    return clipped, kept


def _report_bad_box(
    source: Source,
    box: int,
    code: str,
    complaint: str,
    boxes: NDArray[np.float64],
    limits: NDArray[np.float64],
    on_bad_box: OnBadBox,
    was_clipped: bool,
    log: ProblemLog,
) -> None:
    file, where = source.where(box)
    x1, y1, x2, y2 = (float(f"{side:.6g}") for side in boxes[box])
    width, height = limits[box, 0], limits[box, 1]
    message = f"the box x {x1} to {x2}, y {y1} to {y2} {complaint} ({width:.0f} x {height:.0f} pixels)"
    if on_bad_box == "error":
        fix = "correct it, or set on_bad_box: drop" + (" (or clip)" if code == "box-outside" else "")
        log.error(code, file, where, message, fix)
    else:
        log.warn(code, file, where, message, "clipped to the image" if was_clipped else "dropped")


def _is_misread(
    source: Source,
    boxes: NDArray[np.float64],
    limits: NDArray[np.float64],
    known: _Mask,
    outside: _Mask,
    log: ProblemLog,
) -> bool:
    """Report, once, boxes that are all in another convention; dropping or clipping them would hide the mistake."""
    if source.relative or not known.any():
        return False
    if np.abs(boxes[known]).max() <= 1.01 and limits[known].min() > 2:
        message = f"all {known.sum():,} boxes lie between 0 and 1: they look like fractions of the image"
        log.error("boxes-normalised", source.file, "", message, "multiply by the image size: boxes are in pixels")
        return True
    if source.format != "coco" or known.sum() < 3 or outside.sum() < 0.2 * known.sum():
        return False
    # bbox as it stands in the file, read as two corners
    x1, y1, x2, y2 = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])[known].T
    as_corners = (x2 > x1) & (y2 > y1) & (x2 <= limits[known, 0] + 1) & (y2 <= limits[known, 1] + 1)
    if as_corners.mean() < 0.95:
        return False
    message = f"{outside.sum():,} of {known.sum():,} boxes leave their image, and nearly all fit as [x1, y1, x2, y2]"
    log.error("boxes-corners", source.file, "", message, "write [x, y, width, height]")
    return True


def _report_odd_boxes(source: Source, boxes: NDArray[np.float64], kept: _Mask, log: ProblemLog) -> None:
    sides = boxes[:, 2:] - boxes[:, :2]
    for box in np.flatnonzero(kept & (sides < 1.0).any(axis=1)):
        file, where = source.where(int(box))
        message = f"a side of the box is below 1 pixel ({sides[box, 0]:.3g} x {sides[box, 1]:.3g})"
        log.warn("box-tiny", file, where, message, "it may vanish when the image is resized")
    counts = np.bincount(source.rows[kept], minlength=len(source.ids))
    for row in np.flatnonzero(counts > CROWDED):
        message = f"{counts[row]:,} boxes in one image"
        log.warn("image-crowded", source.file, f"image id {source.ids[row]}", message, "memory grows with it")
    _report_repeated_boxes(source, boxes, kept, log)


def _report_repeated_boxes(source: Source, boxes: NDArray[np.float64], kept: _Mask, log: ProblemLog) -> None:
    numbers = np.flatnonzero(kept)
    table = np.column_stack([source.rows, source.classes, boxes])[numbers]
    order = np.lexsort(table.T)
    same = (table[order][1:] == table[order][:-1]).all(axis=1)
    for place in np.flatnonzero(same):
        file, where = source.where(int(numbers[order[place + 1]]))
        log.warn("box-twice", file, where, "the same box of the same class again", "remove one of them")
