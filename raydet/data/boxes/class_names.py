"""Class numbers are private to one data set; between sets only names count."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from raydet.data.boxes.source import Source, Table
from raydet.data.problems import ProblemLog
from raydet.errors import DataError
from raydet.text import plural, some, suggestion


def renumbered(table: Table, class_names: tuple[str, ...], file: str, log: ProblemLog) -> Table:
    """Return `table` with the class numbers of `class_names`, matched by exact name.

    Classes that `class_names` lacks are errors where boxes use them (those are left out), else forgotten.
    """
    number_of = {name: number for number, name in enumerate(class_names)}
    new_numbers = np.array([number_of.get(name, -1) for name in table.class_names] or [-1], dtype=np.int64)
    used = np.bincount(table.classes, minlength=len(table.class_names))
    for old, name in enumerate(table.class_names):
        if used[old] and name not in number_of:
            message = f"class {name!r} ({plural(used[old], 'box')}) is not a class of the labelled set"
            fix = f"{suggestion(name, class_names)}rename it, remove its boxes, or add it to the labelled set"
            log.error("class-unknown", file, "", message, fix)
    table = table.with_boxes(new_numbers[table.classes] >= 0)
    federated = table.federated
    if federated is not None:
        federated = federated.renumbered(new_numbers, table.class_names, class_names)
    return replace(table, class_names=class_names, classes=new_numbers[table.classes], federated=federated)


def mapped(source: Source, given: Mapping[str, str | None] | str | None, log: ProblemLog) -> Source:
    """Return a data set whose classes have other names; boxes of classes without a name are left out, classes of equal
    names are one. Raises DataError where `given` is a file that holds no such map.
    """
    if given is None:
        return source
    names = read_class_map(Path(given)) if isinstance(given, str) else dict(given)
    for name in names:
        if name not in source.class_names:
            fix = f"{suggestion(name, source.class_names)}correct or remove it"
            log.error("class-map-unknown", source.file, "", f"class_map names {name!r}, which is no class here", fix)
    new_names = [names.get(name, name) for name in source.class_names]
    class_names = tuple(dict.fromkeys(name for name in new_names if name is not None))
    number_of = {name: number for number, name in enumerate(class_names)}
    numbers = np.array([-1 if name is None else number_of[name] for name in new_names] or [-1], dtype=np.int64)
    kept = numbers[source.classes] >= 0
    federated = source.federated
    if federated is not None:
        federated = federated.merged(numbers[: len(new_names)], source.rows, source.classes)
    return replace(
        source,
        class_names=class_names,
        rows=source.rows[kept],
        boxes=source.boxes[kept],
        classes=numbers[source.classes[kept]],
        crowd=source.crowd[kept],
        areas=source.areas[kept],
        tags=source.tags[kept],
        masks=None if source.masks is None else source.masks[kept],
        federated=federated,
    )


def read_class_map(file: Path) -> dict[str, str | None]:
    """Read a JSON object: name there -> name here, or null. Raises DataError."""
    try:
        content = json.loads(file.expanduser().read_bytes())
    except FileNotFoundError:
        raise DataError(f"{file}: no such file (class_map)") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: not readable as JSON (class_map): {error}") from None
    if not isinstance(content, dict) or any(not isinstance(to, str | None) for to in content.values()):
        raise DataError(f'{file}: expected an object of class names (class_map): {{"name there": "name here"}}')
    return content


def report_empty_classes(table: Table, name: str, file: str, log: ProblemLog) -> None:
    """Report a set without boxes to train on or to find, classes without any, and boxes that do not count.

    `name`: what the set is for; of "data", looked at alone, boxes may be missing.
    """
    counts = table.usable_per_class()
    num_boxes, num_crowd = int(counts.sum()), int(table.crowd.sum())
    if num_boxes and num_crowd > num_boxes:
        message = f"{num_crowd:,} of {num_boxes + num_crowd:,} boxes are {_CROWD}"
        log.warn("crowd-most", file, "", message, _NOT_CROWD)
    if num_boxes == 0 and (name != "data" or num_crowd):
        log.error("no-boxes", file, "", f"the {name} set has no usable box: {_why_none(table)}", _way_out(table))
    if num_boxes == 0 or name == "data":
        return
    empty = [class_name for class_name, count in zip(table.class_names, counts, strict=True) if count == 0]
    if empty:
        effect = "cannot be learnt" if name == "labeled" else "AP is undefined for them"
        log.warn("class-empty", file, "", f"the {name} set has no box of: {some(empty)}", effect)


_CROWD = "crowd (COCO iscrowd 1, VOC difficult 1), neither trained on nor counted"
_NOT_CROWD = "write 0 where they are single objects; CVAT writes iscrowd 1 for every mask"


def _why_none(table: Table) -> str:
    if not len(table):
        return "no image can be used"
    if num_crowd := int(table.crowd.sum()):
        return f"every box ({num_crowd:,}) is {_CROWD}"
    if not table.class_names:
        return f"{plural(len(table), 'plain image')}, and no annotations were read"
    return f"{plural(len(table), 'image')} and {plural(len(table.class_names), 'class')}, and not one box"


def _way_out(table: Table) -> str:
    if table.crowd.any():
        return _NOT_CROWD
    return "name annotations (COCO, VOC or YOLO)" if len(table) else "mend what is said of them"
