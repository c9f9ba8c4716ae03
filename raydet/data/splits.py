"""Which images keep their labels: a pure function of (ids, classes, seed, count), saved and used again.

Every image has a place in a shuffle that depends on the seed and its id alone, so a larger count keeps the smaller
split and adds to it, except for what the guarantee below swaps in: every class keeps a box where that is possible.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet.config.detection_data import DataConfig
from raydet.data.files import replacing
from raydet.data.labeled_ids import read_labeled_rows
from raydet.data.source import Table
from raydet.errors import DataError
from raydet.randomness import derive_seed

_FORMAT = 1


def labeled_rows(config: DataConfig, table: Table, file: Path) -> NDArray[np.int64]:
    """Return the rows of `table` that are labelled, ascending: read from `file` where it exists, else drawn and saved.

    Raises DataError where the saved split was made with other settings or for other images.
    """
    rule = _rule(config)
    fingerprint = _fingerprint(table)
    if file.exists():
        return _rows_of(_saved(file, rule, fingerprint), table, file)
    rows = choose_rows(config, table)
    content = {
        "format": _FORMAT,
        "rule": rule,
        "images": len(table),
        "fingerprint": fingerprint,
        "labeled": [table.ids[row] for row in rows],
    }
    with replacing(file) as stream:
        stream.write(json.dumps(content, indent=1, ensure_ascii=False).encode())
    return rows


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
    count = len(table)
    if config.labeled_count is not None:
        count = config.labeled_count
    elif config.labeled_fraction is not None:
        count = max(1, round(config.labeled_fraction * len(table)))
    if count > len(table):
        raise DataError(f"labeled_count is {count}, but the labelled set has {len(table)} images; lower it")
    if count == len(table):
        return np.arange(len(table))
    trained = ~table.crowd
    return stratified(table.ids, table.box_rows()[trained], table.classes[trained], config.split_seed, count)


def _rule(config: DataConfig) -> dict[str, Any]:
    """Return the settings that decide on the split; the seed counts only where something is drawn."""
    for key in ("labeled_count", "labeled_fraction"):
        if (value := getattr(config, key)) is not None:
            return {key: value, "split_seed": config.split_seed}
    return {} if config.labeled_ids is None else {"labeled_ids": config.labeled_ids}


def _fingerprint(table: Table) -> str:
    content = json.dumps([sorted(table.ids), list(table.class_names)], ensure_ascii=False)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def _saved(file: Path, rule: dict[str, Any], fingerprint: str) -> list[str]:
    remedy = "delete the file to draw a new split, or use another folder"
    try:
        content = json.loads(file.read_bytes())
        saved_rule, saved_print, labeled = content["rule"], content["fingerprint"], list(content["labeled"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: not a readable split file ({error}); {remedy}") from None
    if saved_rule != rule:
        raise DataError(f"{file}: made with {_shown(saved_rule)}, but the config says {_shown(rule)}; {remedy}")
    if saved_print != fingerprint:
        message = f"made for {content.get('images')} images; since then images or classes of the labelled set changed"
        raise DataError(f"{file}: {message}; restore them, or {remedy}")
    return labeled


def _shown(rule: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in rule.items()) or "all images labelled"


def _rows_of(ids: list[str], table: Table, file: Path) -> NDArray[np.int64]:
    row_of = {image_id: row for row, image_id in enumerate(table.ids)}
    try:
        return np.array(sorted(row_of[image_id] for image_id in ids), dtype=np.int64)
    except (KeyError, TypeError) as error:
        raise DataError(f"{file}: damaged, no image id {error}; delete the file to draw a new split") from None
