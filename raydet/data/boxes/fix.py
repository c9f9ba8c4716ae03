"""`raydet check-data --fix`: a copy of a detection set's annotations without what cannot be used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from raydet.config.box_data import DatasetConfig
from raydet.data.boxes.formats.detect import read_source
from raydet.data.boxes.formats.json_stream import stream_object
from raydet.data.boxes.rules import usable
from raydet.data.boxes.source import Source, Table
from raydet.data.boxes.summary import summarise
from raydet.data.check import FixPolicy, FixResult, report_of
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.files import check_writable, replacing
from raydet.text import plural

# Errors that leaving boxes out would hide.
_NOT_FIXED = frozenset({"boxes-normalised", "boxes-corners", "lvis-negative-missing", "lvis-category-ids"})


def fix_dataset(config: DatasetConfig, policy: FixPolicy, out: Path) -> FixResult:
    """Write a COCO JSON of what is usable: broken images are left out, bad boxes dropped or clipped.

    An image of which an annotation could not be read, or no box was left, is left out too: as it would be written, it
    would say that nothing is there. Images are referred to, not copied; images, annotations and categories are numbered
    from 1. What is known of the classes that were looked for (LVIS) is kept; masks are not, with a warning. Raises
    UserError where `out` exists or cannot be written, DataError where nothing can be read, what is written would be
    refused, all boxes are in another convention, or which classes were looked for cannot be read.
    """
    if out.exists():
        raise DataError(f"{out}: exists already and is not overwritten; give another name")
    check_writable(out, "--out")  # before everything is decoded
    log = ProblemLog()
    with TemporaryDirectory(prefix="raydet-") as generated:
        source = read_source(config, log, Path(generated))
        table = usable(source, policy, log, decode_images=True)
        _report_masks(source, log)
    table = _without_lies(source, table, log)
    if not _NOT_FIXED.isdisjoint(code for _, code in log.counts):
        log.raise_errors("this cannot be fixed by leaving boxes out")
    if not len(table):
        log.raise_errors("nothing is left to write")
        raise DataError(f"{config.path}: no image is left to write")
    with replacing(out) as stream:
        for piece in _coco_pieces(table):
            stream.write(piece.encode())
    _check_written(out, table.root)
    summary = summarise("fixed", str(out), "coco", table)
    return FixResult(out, table.root, report_of([summary], log))


def _without_lies(source: Source, table: Table, log: ProblemLog) -> Table:
    """Leave out images that would be written as if nothing, or no more, were on them."""
    had_boxes = {source.ids[row] for row in set(source.rows.tolist())}
    spoilt = {source.ids[row] for row in source.spoilt}
    left = np.diff(table.first)
    is_true = np.array(
        [name not in spoilt and (bool(left[row]) or name not in had_boxes) for row, name in enumerate(table.ids)],
        dtype=np.bool_,
    )
    if count := int((~is_true).sum()):
        message = plural(
            count,
            "image with annotations that could not be used is left out: it would be background",
            "images with annotations that could not be used are left out: they would be background",
        )
        log.warn("image-left-out", source.file, "", message, "mend the annotations to keep the images")
    return table.take(np.flatnonzero(is_true))


def _report_masks(source: Source, log: ProblemLog) -> None:
    """Mention masks, which are not written: they were skipped unread."""
    if source.format != "coco":
        return
    count = 0

    def look(first: int, entries: list[Any]) -> None:
        nonlocal count
        count += sum(isinstance(entry, dict) and bool(entry.get("segmentation")) for entry in entries)

    stream_object(source.file, {"annotations": look})
    if count:
        message = f"{plural(count, 'mask is', 'masks are')} not written (segmentation): the copy has boxes alone"
        log.warn("masks-left-out", source.file, "", message, "train masks on the original file")


def _check_written(file: Path, root: Path) -> None:
    """Take the file away again where it would be refused. Raises DataError that says why."""
    log = ProblemLog()
    usable(read_source(DatasetConfig(path=str(file), images=str(root)), log), "error", log)
    if log.num_errors:
        file.unlink()
        log.raise_errors("this cannot be fixed by leaving something out")


def _coco_pieces(table: Table) -> Iterator[str]:
    """Yield a COCO JSON in pieces: all of it at once would need many times the memory of the table."""
    federated = table.federated
    yield '{"images":['
    for row, name in enumerate(table.files):
        height, width = table.sizes[row].tolist()
        entry: dict[str, Any] = {"id": row + 1, "file_name": name, "height": height, "width": width}
        if federated is not None:  # without them every class would count as looked for
            entry["neg_category_ids"] = (federated.negative[row] + 1).tolist()
            entry["not_exhaustive_category_ids"] = (federated.partial[row] + 1).tolist()
        yield _piece(entry, row)
    yield '],\n"annotations":['
    for box, row in enumerate(table.box_rows().tolist()):
        x1, y1, x2, y2 = table.boxes[box].tolist()
        entry = {"id": box + 1, "image_id": row + 1, "category_id": int(table.classes[box]) + 1}
        entry |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(table.areas[box]), "iscrowd": int(table.crowd[box])}
        yield _piece(entry, box)
    yield '],\n"categories":['
    for number, name in enumerate(table.class_names):
        entry = {"id": number + 1, "name": name}
        if federated is not None and federated.frequency[number]:
            entry["frequency"] = federated.frequency[number]
        yield _piece(entry, number)
    yield "]}\n"


def _piece(entry: dict[str, Any], number: int) -> str:
    return (",\n" if number else "\n") + json.dumps(entry, ensure_ascii=False)
