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
    extra = _swapped_in(place[rows], classes, len(ids), count)
    is_chosen = np.zeros(len(ids), dtype=np.bool_)
    is_chosen[: count - len(extra)] = True
    is_chosen[extra] = True
    return np.sort(shuffle[is_chosen])


def _swapped_in(
    places: NDArray[np.int64], classes: NDArray[np.int64], num_images: int, count: int
) -> NDArray[np.int64]:
    """Return the places in the shuffle of the images that are swapped in, each for the last one that is still chosen.

    Box b is in the image at `places[b]`. What is swapped in was not chosen, so it always lies behind the beginning that
    is: of that only the end goes. Counts are kept up to date, as to count all boxes anew for each class takes long.
    """
    num_classes = int(classes.max(initial=-1)) + 1
    images, kinds = np.divmod(np.unique(places * num_classes + classes), max(1, num_classes))  # a class once an image
    of_image = np.searchsorted(images, np.arange(num_images + 1))
    frequency = np.bincount(kinds, minlength=num_classes)
    with_class = np.split(images[np.argsort(kinds, kind="stable")], np.cumsum(frequency)[:-1])  # ascending
    held = np.bincount(kinds[: of_image[count]], minlength=num_classes)  # [C] by how many chosen images
    gains = np.bincount(images[held[kinds] == 0], minlength=num_images)  # [N] missing classes in an image
    extra: list[int] = []
    while len(extra) < count and len(missing := np.flatnonzero((held == 0) & (frequency > 0))):
        candidates = with_class[missing[np.argmin(frequency[missing])]]
        extra.append(int(candidates[np.argmax(gains[candidates])]))
        for image, change in ((extra[-1], 1), (count - len(extra), -1)):
            for kind in kinds[of_image[image] : of_image[image + 1]]:
                held[kind] += change
                if held[kind] == max(0, change):  # 1 after the first came, 0 after the last went
                    gains[with_class[kind]] -= change
    return np.array(extra, dtype=np.int64)


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
