"""Data sets in which not every class was looked for in every image, as in LVIS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet.data.problems import ProblemLog

FREQUENCIES = ("r", "c", "f")  # rare, common, frequent: 1 to 10, 11 to 100, more images in LVIS's training set
Classes = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Federated:
    """What was looked for in each of N images; class numbers are those of the set."""

    negative: list[Classes]  # classes that were looked for and are not there
    partial: list[Classes]  # classes of which not every object has a box
    frequency: tuple[str, ...]  # of each class: r, c, f, or empty

    def take(self, rows: NDArray[np.int64]) -> Federated:
        """Return that of the images `rows`, in that order."""
        return Federated([self.negative[row] for row in rows], [self.partial[row] for row in rows], self.frequency)

    def renumbered(self, numbers: Classes, names: Sequence[str], new_names: Sequence[str]) -> Federated:
        """Return it with the class numbers of `new_names`; `numbers[old]` is the new one, -1 where there is none."""
        of = dict(zip(names, self.frequency, strict=True))

        def moved(each: list[Classes]) -> list[Classes]:
            return [numbers[classes][numbers[classes] >= 0] for classes in each]

        return Federated(moved(self.negative), moved(self.partial), tuple(of.get(name, "") for name in new_names))

    def merged(self, numbers: Classes, rows: NDArray[np.int64], classes: Classes) -> Federated:
        """Return it for classes of which some are one now; `numbers[old]` is the new one, -1 where there is none.

        `rows` and `classes` are the image and the old class of every box. A new class is absent where all its parts
        are. Where a part has a box and another was not looked for, not every object of the new class has one.
        """
        parts = np.bincount(numbers[numbers >= 0])  # of each new class

        def parts_in(old: Classes) -> Classes:
            found = numbers[np.unique(old)]
            return np.bincount(found[found >= 0], minlength=len(parts))

        order = np.argsort(rows, kind="stable")
        ends = np.searchsorted(rows[order], np.arange(len(self.negative) + 1))
        negative, partial = [], []
        for absent, incomplete, (start, end) in zip(self.negative, self.partial, pairwise(ends), strict=True):
            boxed = classes[order[start:end]]
            is_there, looked_for = parts_in(boxed) > 0, parts_in(np.union1d(absent, boxed))
            negative.append(np.flatnonzero(parts_in(absent) == parts))
            partial.append(np.flatnonzero((parts_in(incomplete) > 0) | (is_there & (looked_for < parts))))
        # A new class is in at least as many images as the most frequent of its parts.
        rank = ("", *FREQUENCIES)
        frequency = [""] * len(parts)
        for number, of in zip(numbers, self.frequency, strict=True):
            if number >= 0:
                frequency[number] = max(frequency[number], of, key=rank.index)
        return Federated(negative, partial, tuple(frequency))

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "negative": [each.tolist() for each in self.negative],
            "partial": [each.tolist() for each in self.partial],
            "frequency": list(self.frequency),
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Federated:
        """Return what `as_json` wrote."""
        negative, partial = (
            [np.array(each, dtype=np.int64) for each in content[key]] for key in ("negative", "partial")
        )
        return Federated(negative, partial, tuple(content["frequency"]))


class FederatedColumns:
    """Collects what a COCO file says about this, entry by entry; nothing where it says nothing."""

    def __init__(self, file: Path, log: ProblemLog) -> None:
        self._file, self._log = file, log
        self._frequency: dict[int, str] = {}  # by category id
        self._lists: list[
            tuple[str, Any, Any]
        ] = []  # of each image entry: its place, negative and partial category ids

    def category(self, key: int, entry: Mapping[str, Any]) -> None:
        """Take the frequency of a category."""
        if (found := entry.get("frequency")) is None:
            return
        if found in FREQUENCIES:
            self._frequency[key] = found
        else:
            message = f"frequency must be one of {', '.join(FREQUENCIES)}, got {found!r:.40}"
            self._log.error("category-frequency", self._file, f"category id {key}", message, "correct or remove it")

    def image(self, where: str, entry: Mapping[str, Any]) -> None:
        """Take the lists of an image."""
        self._lists.append((where, entry.get("neg_category_ids"), entry.get("not_exhaustive_category_ids")))

    def result(self, ids: Sequence[int], kept: NDArray[np.int64]) -> Federated | None:
        """Return it for the image entries `kept`; `ids` are the category ids in the order of the classes."""
        is_federated = any(negative is not None or partial is not None for _, negative, partial in self._lists)
        if not is_federated and not self._frequency:
            return None
        class_of = {key: number for number, key in enumerate(ids)}
        negative, partial = [], []
        for entry in kept:
            where, ruled_out, incomplete = self._lists[entry]
            if ruled_out is None:
                message = "no neg_category_ids, though the file says that not every class was looked for (LVIS)"
                fix = "use the original file: without them nobody knows which classes are absent"
                self._log.error("lvis-negative-missing", self._file, where, message, fix)
            negative.append(self._classes(where, "neg_category_ids", ruled_out, class_of))
            partial.append(self._classes(where, "not_exhaustive_category_ids", incomplete, class_of))
        return Federated(negative, partial, tuple(self._frequency.get(key, "") for key in ids))

    def _classes(self, where: str, key: str, found: Any, class_of: Mapping[int, int]) -> Classes:
        found = [] if found is None else found
        if not isinstance(found, list) or any(not isinstance(each, int) for each in found):
            message = f"{key} must be a list of category ids, got {found!r:.60}"
            self._log.error("lvis-category-ids", self._file, where, message, "correct it")
            return np.zeros(0, dtype=np.int64)
        if unknown := [each for each in found if each not in class_of]:
            message = f"{key} names the category {unknown[0]}, which the file does not have"
            self._log.error("lvis-category-ids", self._file, where, message, "correct it, or add the category")
            return np.zeros(0, dtype=np.int64)
        return np.unique(np.array([class_of[each] for each in found], dtype=np.int64))
