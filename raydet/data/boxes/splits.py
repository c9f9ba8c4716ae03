"""Which images keep their labels: a pure function of (ids, classes, seed, count).

Every image has a place in a shuffle that depends on the seed and its id alone, so a larger count keeps the smaller
split and adds to it, except for what the guarantee below swaps in: every class keeps a box where that is possible.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raydet.config.box_data import DataConfig
from raydet.data.boxes.seed_file import read_labeled_rows
from raydet.data.boxes.shots import chosen_boxes
from raydet.data.boxes.source import Table
from raydet.errors import DataError
from raydet.randomness import derive_seed
from raydet.text import plural, suggestion


def stratified(
    ids: Sequence[str], rows: NDArray[np.int64], classes: NDArray[np.int64], seed: int, count: int
) -> NDArray[np.int64]:
    """Draw `count` images such that every class keeps a box if that is possible; returns their rows, ascending.

    Box b is in image `rows[b]` and of class `classes[b]`. The draw is the first `count` images of the shuffle; for
    classes missing there, the rarest first, it makes room at the end for the image with most of the missing classes.
    """
    shuffle = np.argsort([derive_seed(seed, "split", image_id) for image_id in ids], kind="stable")
    place = np.empty(len(ids), dtype=np.int64)
    place[shuffle] = np.arange(len(ids))
    pairs = np.unique(np.column_stack([place[rows], classes]), axis=0)  # each class once an image
    images, kinds = pairs[:, 0], pairs[:, 1]  # images by their place in the shuffle
    frequency = np.bincount(kinds)
    extra: list[int] = []
    while True:
        is_chosen = np.zeros(len(ids), dtype=np.bool_)
        is_chosen[extra] = True
        is_chosen[np.flatnonzero(~is_chosen)[: count - len(extra)]] = True
        missing = np.setdiff1d(kinds, kinds[is_chosen[images]])
        if len(missing) == 0 or len(extra) == count:
            return np.sort(shuffle[is_chosen])
        rarest = missing[np.argmin(frequency[missing])]
        gains = np.bincount(images[np.isin(kinds, missing)], minlength=len(ids))
        candidates = images[kinds == rarest]
        extra.append(int(candidates[np.argmax(gains[candidates])]))


def choose_rows(config: DataConfig, table: Table) -> NDArray[np.int64]:
    """Return the rows of `table` that `config` makes labelled, ascending. Raises DataError where it cannot."""
    if config.labeled_ids is not None:
        return read_labeled_rows(config.labeled_ids, table)
    if config.shots_per_class is not None:
        return np.unique(table.box_rows()[chosen_boxes(table, config.shots_per_class, config.split_seed)])
    count = len(table)
    if config.labeled_count is not None:
        count = config.labeled_count
    elif config.labeled_fraction is not None:
        count = max(1, round(config.labeled_fraction * len(table)))
    if count > len(table):
        raise DataError(
            f"data.labeled_count is {count}, but the labelled set has {plural(len(table), 'image')}; lower it"
        )
    if count == len(table):
        return np.arange(len(table))
    trained = ~table.crowd
    return stratified(table.ids, table.box_rows()[trained], table.classes[trained], config.split_seed, count)


def thinned(config: DataConfig, table: Table) -> Table:
    """Return the labelled images with K boxes of every class (few-shot), or with minority classes made rare, as the
    published long-tailed splits are; by default with all of their boxes.

    Of every minority class, the rarest first, so many images keep all of their boxes, drawn with `split_seed`; images
    that were chosen for another class count. Everywhere else objects of minority classes become background. Raises
    DataError for classes that do not exist.
    """
    split = config.split
    for key, names in (("minority_classes", split.minority), ("novel_classes", split.novel)):
        if unknown := [name for name in names if name not in table.class_names]:
            raise DataError(
                f"data.split.{key}: {unknown[0]!r} is no class of the labelled set; "
                f"{suggestion(unknown[0], table.class_names)}correct or remove it"
            )
    if config.shots_per_class is not None:
        return table.with_boxes(chosen_boxes(table, config.shots_per_class, config.split_seed))
    if split.keep_images_per_minority is None:
        return table
    rows, numbers = table.box_rows(), [table.class_names.index(name) for name in split.minority]
    with_class = {number: np.unique(rows[(table.classes == number) & ~table.crowd]) for number in numbers}
    place = [derive_seed(config.split_seed, "minority", image_id) for image_id in table.ids]
    chosen: set[int] = set()
    for number in sorted(numbers, key=lambda number: (len(with_class[number]), number)):
        own = with_class[number].tolist()
        missing = split.keep_images_per_minority - len(chosen.intersection(own))
        chosen.update(sorted(set(own) - chosen, key=place.__getitem__)[: max(0, missing)])
    keeps_all = np.isin(rows, np.array(sorted(chosen), dtype=np.int64))
    return table.with_boxes(keeps_all | ~np.isin(table.classes, numbers))


def fingerprint(table: Table) -> str:
    """Name the images and classes, in whatever order the images come."""
    content = json.dumps([sorted(table.ids), list(table.class_names)], ensure_ascii=False)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
