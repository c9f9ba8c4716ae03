"""What every image set must satisfy, whatever its format: unique ids, labels that name a class, readable images."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from raydet.data.classes.table import NO_LABEL, ImageTable
from raydet.data.problems import ProblemLog
from raydet.data.similar_names import report_similar_names
from raydet.errors import DataError
from raydet.text import is_plain

_THREADS = 8
_CHUNK = 4_096


def usable(
    table: ImageTable, source: str, log: ProblemLog, *, needs_labels: bool, decode_images: bool = False
) -> ImageTable:
    """Check a set and return the images that are fit for use; everything left out is in `log`.

    Images are opened only with `decode_images`, which decodes all of them. Without `needs_labels`, label -1 and
    missing labels are fine; a number that is no class never is.
    """
    if not len(table):
        log.error("no-images", source, "", "no images", "add images or correct the path")
    _check_class_names(table, source, log)
    kept = np.ones(len(table), dtype=np.bool_)
    kept[_bad_ids(table, log)] = False
    kept[_bad_labels(table, source, needs_labels, log)] = False
    if decode_images:
        kept[_undecodable(table, log)] = False
    return table if kept.all() else table.take(np.flatnonzero(kept))


def _check_class_names(table: ImageTable, source: str, log: ProblemLog) -> None:
    seen: set[str] = set()
    for number, name in enumerate(table.class_names):
        where = f"class {number}"
        if not name or not is_plain(name):
            log.error("class-name", source, where, f"the name {name!r:.60} is empty or not plain text", "rename it")
        elif name in seen:
            log.error("class-name", source, where, f"the name {name!r} is given twice", "rename one of them")
        seen.add(name)
    report_similar_names(table.class_names, source, log)


def _bad_ids(table: ImageTable, log: ProblemLog) -> list[int]:
    """Report ids that cannot be named in messages and lists, and ids that two images share; the first one stays."""
    odd = pc.match_substring_regex(table.ids, "[\\x00-\\x1f\\x7f-\\x{9f}]|^$").to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(odd).tolist()
    for row in bad:
        message = f"the image id {table.id_at(row)!r:.80} is empty or holds a control character"
        log.error("image-id", table.name_at(row), "", message, "give it another id")
    if pc.count_distinct(table.ids).as_py() == len(table):
        return bad
    first: dict[str, int] = {}
    for row, image_id in enumerate(table.ids.to_pylist()):
        other = first.setdefault(image_id, row)
        if other != row:
            message = f"the image id {image_id!r:.80} is also that of {table.name_at(other)}"
            log.error("image-id-twice", table.name_at(row), "", message, "every image needs an id of its own")
            bad.append(row)
    return bad


def _bad_labels(table: ImageTable, source: str, needs_labels: bool, log: ProblemLog) -> NDArray[np.int64]:
    labels, count = table.labels, len(table.class_names)
    if needs_labels and len(table) and (labels == NO_LABEL).all():
        fix = "name the column or folder that holds them; only data.unlabeled can do without"
        log.error("no-labels", source, "", "no image has a label", fix)
        return np.arange(len(table))
    bad = (labels >= count) | (labels < NO_LABEL)
    for row in np.flatnonzero(bad).tolist():
        message = f"label {labels[row]} of image id {table.id_at(row)}: there are {count} classes, 0 to {count - 1}"
        log.error("label-range", table.name_at(row), "", message, "correct the label or the list of classes")
    if needs_labels:
        for row in np.flatnonzero(labels == NO_LABEL).tolist():
            message = f"image id {table.id_at(row)} has no label (null, or -1)"
            log.error("label-missing", table.name_at(row), "", message, "label the image or remove it")
        bad |= labels == NO_LABEL
    return np.flatnonzero(bad)


def _undecodable(table: ImageTable, log: ProblemLog) -> list[int]:
    bad: list[int] = []
    for row, complaint in enumerate(_decode_all(table)):
        if complaint:
            log.error("image-unreadable", table.name_at(row), f"image id {table.id_at(row)}", complaint)
            bad.append(row)
    return bad


def _decode_all(table: ImageTable) -> Iterator[str]:
    """Yield what is wrong with each image, '' where nothing is."""

    def complaint(row: int) -> str:
        try:
            table.pixels_at(row)
        except DataError as error:
            return str(error).removeprefix(f"{table.name_at(row)}: ")
        return ""

    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(table), _CHUNK):
            yield from pool.map(complaint, range(start, min(start + _CHUNK, len(table))))
