"""What every data set must satisfy, whatever its format: readable images, honest sizes, boxes inside their image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raydet.data.bad_images import OnBadImage, report_bad_image
from raydet.data.boxes.box_rules import OnBadBox, judge_boxes
from raydet.data.boxes.masks import judge_masks
from raydet.data.boxes.source import Source, Table
from raydet.data.declared_size import size_is_honest
from raydet.data.decode import FULL_RANGE
from raydet.data.glance import Glance, complaint, darkness
from raydet.data.look_alike import hint
from raydet.data.paths import LeadsOutsideError, resolve_inside
from raydet.data.problems import ProblemLog
from raydet.data.similar_names import report_similar_names
from raydet.data.threads import in_threads
from raydet.errors import DataError

_HINTS = 20  # missing images of which a look-alike is searched
_Mask = NDArray[np.bool_]


def usable(
    source: Source,
    on_bad_box: OnBadBox,
    log: ProblemLog,
    *,
    decode_images: bool = False,
    on_bad_image: OnBadImage = "error",
    gray16_range: tuple[int, int] = FULL_RANGE,
) -> Table:
    """Check a data set and return the images and boxes that are fit for use; everything left out is in `log`.

    Image files are opened for their size, and decoded where their end is missing; all of them are with `decode_images`
    or `on_bad_image: skip`. `gray16_range`: the values of 16-bit pictures that become 0 to 255.
    """
    if not source.ids:
        log.error("no-images", source.file, "", "no images", "add images or correct the path")
    report_similar_names(source.class_names, source.file, log)
    images = _Images(source, on_bad_image, log)
    sizes = images.measure(decode_all=decode_images or on_bad_image == "skip")
    if (dark := darkness(images.wide, gray16_range)) is not None:
        log.warn("images-dark", source.file, "", *dark)
    if source.ids and on_bad_image == "skip" and not sizes.any() and not log.num_errors:
        log.error("no-images", source.file, "", "no image can be read, all were left out", "mend the images")
    _report_shared_files(source, log)
    boxes, kept = judge_boxes(source, sizes, on_bad_box, log)
    masks = judge_masks(source, sizes, kept, on_bad_box, log)
    return replace(_table(source, sizes, images.num_bytes, boxes, masks, kept), gray16_range=gray16_range)


def _table(
    source: Source,
    sizes: NDArray[np.int64],
    num_bytes: NDArray[np.int64],
    boxes: NDArray[np.float64],
    masks: NDArray[np.object_] | None,
    kept: _Mask,
) -> Table:
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
        num_bytes=num_bytes,
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes,
        classes=source.classes[order],
        crowd=source.crowd[order],
        areas=np.where(np.isnan(areas), box_areas, areas),
        annotated=np.bincount(source.rows[~source.crowd], minlength=len(source.ids)) > 0,
        federated=source.federated,
        masks=None if masks is None else masks[order],
    )
    is_usable = sizes[:, 0] > 0
    return table if is_usable.all() else table.take(np.flatnonzero(is_usable))


# --- images -----------------------------------------------------------------------------------------------------------


class _Images:
    """The image files of a source, looked at in threads."""

    def __init__(self, source: Source, on_bad_image: OnBadImage, log: ProblemLog) -> None:
        self._source, self._on_bad_image, self._log = source, on_bad_image, log
        self._hints = 0
        self.wide: list[Path | memoryview] = []  # those with more than 8 bits
        self.num_bytes = np.full(len(source.ids), -1, dtype=np.int64)  # [N] of the files, -1 where there is none

    def measure(self, *, decode_all: bool) -> NDArray[np.int64]:
        """Return the image sizes `[N, 2]` (height, width) after EXIF rotation, 0 where there is no usable image."""
        source, log = self._source, self._log
        sizes = np.zeros((len(source.ids), 2), dtype=np.int64)
        has_boxes = np.bincount(source.rows, minlength=len(source.ids)) > 0
        for row, found in enumerate(self._look_at_all(decode_all)):
            if isinstance(found, str):
                log.error("file-name", source.file, f"image id {source.ids[row]}", found)
                continue
            path, seen, complaint = found
            if seen is None:
                self._report(row, path, complaint)
                continue
            if seen.is_wide:
                self.wide.append(path)
            height, width = source.sizes[row].tolist()
            where, has_box = f"image id {source.ids[row]}", bool(has_boxes[row])
            name = source.files[row]
            if size_is_honest((height, width), seen, name, log, source.file, where, has_boxes=has_box):
                sizes[row] = seen.upright
                self.num_bytes[row] = seen.num_bytes
        return sizes

    def _look_at_all(self, decode_all: bool) -> Iterator[str | tuple[Path, Glance | None, str]]:
        """Yield what is wrong with a name, or its file with what is seen and what is wrong with it."""
        source = self._source

        def look_at(name: str) -> str | tuple[Path, Glance | None, str]:
            try:
                path = resolve_inside(source.root, name)
            except LeadsOutsideError as error:
                return error.with_way_out
            except DataError as error:
                return str(error)
            return path, *complaint(path, str(path), decode_all=decode_all)

        yield from in_threads(look_at, source.files)

    def _report(self, row: int, path: Path, complaint: str) -> None:
        source, near = self._source, ""
        is_there = os.path.exists(path)
        if not is_there and self._hints < _HINTS:  # every one of them searches a folder
            self._hints, near = self._hints + 1, hint(source.root, source.files[row])
        code = "image-unreadable" if is_there else "image-missing"
        where, message = f"image id {source.ids[row]}", f"{path}: {complaint}{near}"
        report_bad_image(self._log, self._on_bad_image, code, source.ids[row], str(source.file), where, message)


def _report_shared_files(source: Source, log: ProblemLog) -> None:
    first: dict[str, int] = {}
    for row, name in enumerate(source.files):
        other = first.setdefault(name, row)
        if other != row:
            message = f"{name} is also image id {source.ids[other]}; the boxes of one are background in the other"
            log.warn("file-twice", source.file, f"image id {source.ids[row]}", message, "merge the two entries")
