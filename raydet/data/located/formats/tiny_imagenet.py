"""Tiny-ImageNet as it is published (tiny-imagenet-200): train/WNID/images/*.JPEG with WNID_boxes.txt, val/images/*.JPEG
with val_annotations.txt, wnids.txt. The test set has no labels.

Boxes are inclusive corners in pixels counted from 0: the whole image is 0 0 63 63.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raydet.data.classes.table import files_table
from raydet.data.folder import image_names
from raydet.data.located.formats.listed import lines_of
from raydet.data.located.table import LocatedTable, located
from raydet.data.paths import resolve_inside
from raydet.data.problems import ProblemLog
from raydet.errors import DataError

Box = tuple[float, ...]


def find_tiny_imagenet(folder: Path) -> Path | None:
    """Return the folder of wnids.txt, which may lie one level below."""
    for place in (folder, folder / "tiny-imagenet-200"):
        if (place / "wnids.txt").is_file() and (place / "train").is_dir():
            return place
    return None


def read_tiny_imagenet(folder: Path, subset: str | None, *, read_boxes: bool, log: ProblemLog) -> LocatedTable:
    """Read `train` or `val`; ids are the names below that folder, classes are the WordNet ids in alphabetical order.

    Raises DataError where a list is missing or damaged, or the folder of a class lies elsewhere.
    """
    place = find_tiny_imagenet(folder)
    if place is None:
        raise DataError(f"{folder}: no wnids.txt and train/ there; this is not Tiny-ImageNet")
    if subset not in ("train", "val"):
        raise DataError(f"{folder}: subset is {subset!r}: Tiny-ImageNet has train and val; set `subset` to one of them")
    class_names = tuple(sorted(line.strip() for line in lines_of(place / "wnids.txt")))
    root = (place / subset).resolve()
    if subset == "train":
        names = [f"{each}/{name}" for each in class_names for name in _images(root, each, log)]
        class_of = {name: name.split("/", 1)[0] for name in names}
        boxes = _train_boxes(root, class_names) if read_boxes else {}
    else:
        found = _annotations(root / "val_annotations.txt")
        names = [f"images/{name}" for name in found]
        class_of = {f"images/{name}": wnid for name, (wnid, _) in found.items()}
        boxes = {f"images/{name}": box for name, (_, box) in found.items()} if read_boxes else {}
    number_of = {name: number for number, name in enumerate(class_names)}
    labels = np.array([number_of.get(class_of[name], -1) for name in names], dtype=np.int64)
    table = files_table(root, names, labels, class_names)
    return located(table, [[boxes[name]] if name in boxes else [] for name in names])


def _images(root: Path, wnid: str, log: ProblemLog) -> list[str]:
    """Return the images of a class, by their names below its folder."""
    resolve_inside(root, wnid, is_folder=True)
    folder = resolve_inside(root, f"{wnid}/images", is_folder=True)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; is the data set complete?")
    return [f"images/{name}" for name in image_names(folder, log)]


def _train_boxes(root: Path, class_names: tuple[str, ...]) -> dict[str, Box]:
    found = {}
    for wnid in class_names:
        file = root / wnid / f"{wnid}_boxes.txt"
        if file.is_file():
            for number, line in enumerate(lines_of(file), start=1):
                name, *corners = line.split()
                found[f"{wnid}/images/{name}"] = _box(corners, file, number)
    return found


def _annotations(file: Path) -> dict[str, tuple[str, Box]]:
    found = {}
    for number, line in enumerate(lines_of(file), start=1):
        words = line.split()
        if len(words) != 6:
            raise DataError(f"{file}, line {number}: expected image, class and four numbers, got {line[:60]!r}")
        found[words[0]] = words[1], _box(words[2:], file, number)
    return found


def _box(words: list[str], file: Path, number: int) -> Box:
    try:
        left, top, right, bottom = (float(word) for word in words)
    except ValueError:
        raise DataError(f"{file}, line {number}: expected four numbers, got {' '.join(words)!r:.60}") from None
    return left, top, right + 1, bottom + 1
