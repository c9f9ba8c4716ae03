"""COCO JSON with one class per image: the class of its boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydet.data.boxes.formats.coco import read_coco
from raydet.data.boxes.source import Source
from raydet.data.classes.table import NO_LABEL, files_table
from raydet.data.located.table import LocatedTable, located
from raydet.data.problems import ProblemLog

OnSeveral = Literal["error", "drop", "largest"]


def read_located_coco(
    file: Path, images: Path | None, on_several: OnSeveral, *, read_boxes: bool, log: ProblemLog
) -> LocatedTable:
    """Read a COCO JSON; ids are its own. Crowd boxes are left out, and say nothing about a class.

    Several boxes of one class are what an image may have. With boxes of several classes it has no one class; see
    `data.on_several_classes`.
    """
    return of_source(read_coco(file, images, log), on_several, read_boxes=read_boxes, log=log)


def of_source(source: Source, on_several: OnSeveral, *, read_boxes: bool, log: ProblemLog) -> LocatedTable:
    """Return the images of a source, each with the class of its boxes."""
    own: list[list[int]] = [[] for _ in source.ids]
    for box in np.flatnonzero(~source.crowd).tolist():
        own[int(source.rows[box])].append(box)
    labels = np.full(len(source.ids), NO_LABEL, dtype=np.int64)
    kept = np.ones(len(source.ids), dtype=np.bool_)
    for row, boxes in enumerate(own):
        classes = set(source.classes[boxes].tolist())
        if len(classes) > 1:
            kept[row] = _several(source, row, boxes, on_several, log)
            boxes = own[row] = _of_the_largest(source, boxes)
        if boxes:
            labels[row] = source.classes[boxes[0]]
    table = files_table(source.root, source.files, labels, source.class_names)
    table = replace(table, ids=pa.array(source.ids, pa.large_utf8()))
    found = located(table, [source.boxes[boxes].tolist() if read_boxes else [] for boxes in own], source.sizes)
    return found if kept.all() else found.take(np.flatnonzero(kept))


def _several(source: Source, row: int, boxes: list[int], on_several: OnSeveral, log: ProblemLog) -> bool:
    """Report an image with boxes of several classes; return whether it stays."""
    names = ", ".join(sorted({repr(source.class_names[number]) for number in source.classes[boxes]}))
    message = f"{source.files[row]} has boxes of several classes ({names}); here an image has one class"
    where = f"image id {source.ids[row]}"
    if on_several == "error":
        fix = "keep one class per image, or set data.on_several_classes to drop or largest"
        log.error("several-classes", source.file, where, message, fix)
        return False
    done = "the image is left out" if on_several == "drop" else "the class of its largest box is taken"
    log.warn("several-classes", source.file, where, message, f"{done} (data.on_several_classes)")
    return on_several == "largest"


def _of_the_largest(source: Source, boxes: list[int]) -> list[int]:
    """Return the boxes of the class of the largest one, which comes first."""
    areas: NDArray[np.float64] = np.prod(source.boxes[boxes][:, 2:] - source.boxes[boxes][:, :2], axis=1)
    first = boxes[int(areas.argmax())]
    return [first, *(box for box in boxes if box != first and source.classes[box] == source.classes[first])]
