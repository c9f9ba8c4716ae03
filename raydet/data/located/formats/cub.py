"""CUB-200-2011 as it is published: images.txt, image_class_labels.txt, bounding_boxes.txt, train_test_split.txt,
classes.txt and images/. Boxes are x, y, width, height in pixels; each image has one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raydet.data.classes.table import files_table
from raydet.data.located.formats.listed import numbered_lines
from raydet.data.located.table import LocatedTable, located
from raydet.data.problems import ProblemLog
from raydet.errors import DataError

SUBSETS = {"train": "1", "test": "0"}  # is_training_image


def find_cub(folder: Path) -> Path | None:
    """Return the folder of the lists, which may lie one level below."""
    for place in (folder, folder / "CUB_200_2011"):
        if (place / "images.txt").is_file() and (place / "train_test_split.txt").is_file():
            return place
    return None


def read_cub(folder: Path, subset: str | None, *, read_boxes: bool, log: ProblemLog) -> LocatedTable:
    """Read the images of `train` or `test`; ids are the names below images/, classes are numbered as published.

    Raises DataError where a list is missing or damaged.
    """
    place = find_cub(folder)
    if place is None:
        raise DataError(f"{folder}: no images.txt and train_test_split.txt there; this is not CUB-200-2011")
    if subset not in SUBSETS:
        raise DataError(f"{folder}: subset is {subset!r}: CUB-200-2011 has train and test; set `subset` to one of them")
    files = numbered_lines(place / "images.txt", 1)
    split = numbered_lines(place / "train_test_split.txt", 1)
    labels = numbered_lines(place / "image_class_labels.txt", 1)
    names = {number: name[0] for number, name in numbered_lines(place / "classes.txt", 1).items()}
    boxes = numbered_lines(place / "bounding_boxes.txt", 4) if read_boxes else {}
    class_names = tuple(names[number] for number in sorted(names, key=int))
    number_of = {number: place for place, number in enumerate(sorted(names, key=int))}
    chosen = [number for number in files if split.get(number, ("",))[0] == SUBSETS[subset]]
    if not chosen:
        raise DataError(f"{place / 'train_test_split.txt'}: no image of {subset}")
    found = np.array([number_of.get(labels.get(number, ("",))[0], -1) for number in chosen], dtype=np.int64)
    table = files_table((place / "images").resolve(), [files[number][0] for number in chosen], found, class_names)
    return located(table, [_corners(boxes.get(number), place, number) for number in chosen])


def _corners(words: tuple[str, ...] | None, place: Path, number: str) -> list[tuple[float, ...]]:
    if words is None:
        return []
    try:
        x, y, width, height = (float(word) for word in words)
    except ValueError:
        file = place / "bounding_boxes.txt"
        raise DataError(f"{file}: image {number} has {' '.join(words)!r:.60}, not four numbers") from None
    return [(x, y, x + width, y + height)]
