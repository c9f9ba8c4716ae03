"""Class numbers are private to one image set; between sets only names count."""

from __future__ import annotations

import numpy as np

from raydet.data.classes.table import ImageTable
from raydet.data.problems import ProblemLog
from raydet.text import plural, some, suggestion


def renumbered(
    table: ImageTable, class_names: tuple[str, ...], file: str, log: ProblemLog, *, is_hidden: bool = False
) -> ImageTable:
    """Return `table` with the class numbers of `class_names`, matched by exact name.

    Classes that `class_names` lacks are errors where images have them (those are left out), else forgotten. Labels that
    are `is_hidden` from training anyway are forgotten with a warning, and their images stay.
    """
    number_of = {name: number for number, name in enumerate(class_names)}
    # one place more, for images without a label: -1 stays -1
    new_numbers = np.array([*(number_of.get(name, -1) for name in table.class_names), -1], dtype=np.int64)
    is_known = np.array([*(name in number_of for name in table.class_names), True])
    used = table.images_per_class()
    for old, name in enumerate(table.class_names):
        if used[old] and name not in number_of:
            message = f"class {name!r} ({plural(used[old], 'image')}) is not a class of the labelled set"
            hint = suggestion(name, class_names)
            if is_hidden:
                log.warn("class-unknown", file, "", message, f"{hint}diagnostics will say nothing about these images")
            else:
                fix = f"{hint}rename it, remove its images, or add it to the labelled set"
                log.error("class-unknown", file, "", message, fix)
    kept = is_known[table.labels] | is_hidden
    if not kept.all():
        table = table.take(np.flatnonzero(kept))
    return table.with_labels(new_numbers[table.labels], class_names)


def report_missing_classes(name: str, table: ImageTable, file: str, log: ProblemLog) -> None:
    """Report classes without images: an error in the set `labeled`, a warning where it is only measured."""
    counts = table.images_per_class()
    missing = [repr(one) for one, count in zip(table.class_names, counts, strict=True) if count == 0]
    if not missing or not len(table):
        return
    message = f"the {name} set has no image of class {some(missing)}"
    if name == "labeled":
        fix = "a class without a labelled image cannot be learnt: add images, or remove the class from the list"
        log.error("class-missing", file, "", message, fix)
    else:
        log.warn("class-missing", file, "", message, "accuracy says nothing about it")
