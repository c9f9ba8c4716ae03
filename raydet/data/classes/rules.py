"""What every image set must satisfy, whatever its format: unique ids, labels that name a class, readable images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from raydet.data.bad_images import OnBadImage, report_bad_image
from raydet.data.classes.table import NO_LABEL, ImageTable
from raydet.data.glance import Glance, complaint, darkness
from raydet.data.problems import ProblemLog
from raydet.data.similar_names import report_similar_names
from raydet.data.threads import in_threads
from raydet.errors import DataError
from raydet.text import is_plain

MOST_GLANCED_AT = 100_000  # with more images, a run starts without opening them all


def usable(
    table: ImageTable,
    source: str,
    log: ProblemLog,
    *,
    needs_labels: bool,
    decode_images: bool = False,
    on_bad_image: OnBadImage = "error",
) -> ImageTable:
    """Check a set and return the images that are fit for use; everything left out is in `log`.

    Encoded images are looked at from both ends, where there are not too many, and decoded where their end is missing;
    all of them are with `decode_images` or `on_bad_image: skip`. Without `needs_labels`, label -1 and missing labels
    are fine; a number that is no class never is.
    """
    if not len(table):
        log.error("no-images", source, "", "no images", "add images or correct the path")
    _check_class_names(table, source, log)
    kept = np.ones(len(table), dtype=np.bool_)
    kept[_bad_ids(table, log)] = False
    kept[_bad_labels(table, source, needs_labels, log)] = False
    decode_all = decode_images or on_bad_image == "skip"
    if decode_all or len(table) <= MOST_GLANCED_AT:
        kept[_bad_images(table, source, on_bad_image, log, decode_all=decode_all)] = False
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


def _bad_images(
    table: ImageTable, source: str, on_bad_image: OnBadImage, log: ProblemLog, *, decode_all: bool
) -> list[int]:
    bad: list[int] = []
    wide: list[Path | memoryview] = []
    for row, (picture, seen, wrong) in enumerate(_look_at_all(table, decode_all)):
        if wrong:
            where = f"image id {table.id_at(row)}"
            report_bad_image(log, on_bad_image, "image-unreadable", table.id_at(row), table.name_at(row), where, wrong)
            bad.append(row)
        elif seen is not None and seen.is_wide and picture is not None:
            wide.append(picture)
    if (dark := darkness(wide, table.gray16_range)) is not None:
        log.warn("images-dark", source, "", *dark)
    if bad and len(bad) == len(table) and on_bad_image == "skip":
        log.error("no-images", source, "", "no image can be read, all were left out", "mend the images")
    return bad


def _look_at_all(table: ImageTable, decode_all: bool) -> Iterator[tuple[Path | memoryview | None, Glance | None, str]]:
    """Yield each image (None where it is raw pixels), what a glance says, and what is wrong ('': nothing)."""

    def look_at(row: int) -> tuple[Path | memoryview | None, Glance | None, str]:
        if table.shapes[row].any():  # raw pixels: there is nothing that could be damaged
            return None, None, ""
        try:
            picture = table.file_at(row) or table.bytes_at(row)
        except DataError as error:
            return None, None, str(error)
        return picture, *complaint(picture, table.name_at(row), decode_all=decode_all)

    yield from in_threads(look_at, range(len(table)))
