"""Which images keep their labels: a pure function of (ids, labels, seed, rule).

Every image has a place in a shuffle that depends on the seed and its id alone. Its rank among the images of its own
class decides when it is labelled, so a larger number of labels contains the smaller one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raydet.config.class_data import ImageDataConfig
from raydet.config.located_data import LocatedDataConfig
from raydet.data.classes.table import ImageTable
from raydet.data.labeled_ids import listed_rows, read_id_file
from raydet.errors import DataError
from raydet.randomness import derive_seed
from raydet.text import plural, some


def choose_rows(config: ImageDataConfig | LocatedDataConfig, table: ImageTable) -> NDArray[np.int64]:
    """Return the rows of `table` (all labelled) that `config` labels, ascending. Raises DataError where it cannot."""
    if config.labeled_ids is not None:
        file = Path(config.labeled_ids).expanduser()
        return listed_rows(read_id_file(file), file, table.ids.to_pylist())
    if config.labeled_per_class is not None:
        return _first_of_each(table, config.labeled_per_class, config.split_seed)
    classes = int((table.images_per_class() > 0).sum())
    if config.labeled_count is not None:
        count = config.labeled_count
        if count > len(table):
            raise DataError(
                f"data.labeled_count is {count:,}, but the labelled set has {plural(len(table), 'image')}; lower it"
            )
        if count < classes:
            raise DataError(
                f"data.labeled_count is {count}, but there are {classes} classes: at least one image of each"
            )
    elif config.labeled_fraction is not None:
        count = max(classes, round(config.labeled_fraction * len(table)))
    else:
        count = len(table)
    return np.arange(len(table)) if count == len(table) else _in_proportion(table, count, config.split_seed)


def _first_of_each(table: ImageTable, per_class: int, seed: int) -> NDArray[np.int64]:
    counts = table.images_per_class()
    short = [f"{table.class_names[c]!r} has {counts[c]:,}" for c in np.flatnonzero(counts < per_class)]
    if short:
        raise DataError(f"data.labeled_per_class is {per_class:,}, but class {some(short)}; lower it or add images")
    return np.flatnonzero(_ranks(table, seed) < per_class)


def _in_proportion(table: ImageTable, count: int, seed: int) -> NDArray[np.int64]:
    """Draw `count` images in the classes' own proportions (Sainte-Laguë), after one of each class.

    The image of rank r in a class of n is called at (r + 1/2) / n: one order of all images, cut at `count`.
    """
    ranks = _ranks(table, seed)
    turn = np.where(ranks == 0, -1.0, (ranks + 0.5) / table.images_per_class()[table.labels])
    order = np.lexsort([_places(table, seed), turn])  # equal turns: by the shuffle
    return np.sort(order[:count])


def _ranks(table: ImageTable, seed: int) -> NDArray[np.int64]:
    """Return each image's place `[D]` among the images of its class, in the order of the shuffle."""
    order = np.lexsort([_places(table, seed), table.labels])
    first = np.concatenate([[0], np.cumsum(table.images_per_class())])
    ranks = np.empty(len(table), dtype=np.int64)
    ranks[order] = np.arange(len(table)) - first[table.labels[order]]
    return ranks


def _places(table: ImageTable, seed: int) -> NDArray[np.int64]:
    """Return a number `[D]` by which the images are shuffled: a function of seed and id."""
    drawn = (derive_seed(seed, "split", image_id) for image_id in table.ids.to_pylist())
    return np.fromiter(drawn, dtype=np.int64, count=len(table))


def fingerprint(table: ImageTable) -> str:
    """Name the images and their labels, in whatever order they come."""
    digest = hashlib.blake2b(json.dumps(list(table.class_names), ensure_ascii=False).encode(), digest_size=16)
    for image_id, label in sorted(zip(table.ids.to_pylist(), table.labels.tolist(), strict=True)):
        digest.update(f"\x1f{image_id}\x1e{label}".encode())
    return digest.hexdigest()
