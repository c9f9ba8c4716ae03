"""Detections and true boxes in columns, and which of them share pixels: what average precision and TIDE start from.

Those of many images lie in one array; looking at an image after the other took several times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_PER_CLASS = 100  # detections of a class in an image, as COCO counts
MOST_PAIRS = 100_000  # looked at at once, but for an image that has more; two million was slower

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class TrueBoxes:
    """True boxes of any number of images."""

    images: Ints  # [G]
    boxes: Floats  # [G, 4] xyxy, pixels
    classes: Ints  # [G] from 0
    crowd: Bools  # [G]
    sides: Floats  # [G, 2] width and height: what corners tell only up to rounding
    areas: Floats  # [G] square pixels, as annotated


@dataclass(frozen=True, slots=True, eq=False)
class SaidBoxes:
    """Detections of any number of images."""

    images: Ints  # [D]
    boxes: Floats  # [D, 4] xyxy, pixels
    classes: Ints  # [D] from 0
    scores: Floats  # [D]
    sides: Floats  # [D, 2] width and height

    def where(self, which: Bools) -> SaidBoxes:
        """Return those for which `which` `[D]` is true."""
        places, shapes = (self.images[which], self.boxes[which]), self.sides[which]
        return SaidBoxes(*places, self.classes[which], self.scores[which], shapes)


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """A detection and a true box of one image each that share pixels: by detection, then in the order of the boxes."""

    detection: Ints  # [P] place among the rows that were asked for, never falling
    box: Ints  # [P] row of the true boxes
    overlap: Floats  # [P] pixels that both cover
    same: Bools  # [P] of one class


@dataclass(frozen=True, slots=True, eq=False)
class Judgeable:
    """The detections that count, so many of each image and class, and what they touch."""

    by_score: Ints  # [N] rows, best first; equal scores as they were given
    by_class: Ints  # [N] the same by class
    rows: Ints  # [N] the same by image
    pairs: Pairs  # of `rows`


def judgeable(truth: TrueBoxes, said: SaidBoxes, most: int = MOST_PER_CLASS) -> Judgeable:
    """Return which of the detections `said`, in any order, count beside `truth`: `most` of an image and class."""
    by_score = _best_first(said.scores)
    rows = by_score[sorted_by(said.images[by_score])]
    by_class = by_score[sorted_by(said.classes[by_score])]
    if len(rows) and int(np.bincount(said.images).max()) > most:
        by_kind = by_class[sorted_by(said.images[by_class])]  # by image, then class
        counts = np.empty(len(rows), dtype=np.bool_)
        counts[by_kind] = places_in_runs(said.images[by_kind], said.classes[by_kind]) < most
        by_score, by_class, rows = (each[counts[each]] for each in (by_score, by_class, rows))
    return Judgeable(by_score, by_class, rows, _touching(truth, said, rows))


def sorted_by(keys: Ints) -> Ints:
    """Return the stable order of whole numbers from 0 on; short ones are sorted several times as fast."""
    short = len(keys) and int(keys.max()) < 2**16
    return np.argsort(keys.astype(np.uint16) if short else keys, kind="stable")


def _best_first(scores: Floats) -> Ints:
    """Return the stable order of scores, highest first: by a sort that leaves open how equal ones lie, which takes a
    quarter of the time of one that does not, and those put as they were given."""
    order = np.argsort(-scores)
    ordered = scores[order]
    is_same = ordered[1:] == ordered[:-1]
    tied = np.flatnonzero(np.append(False, is_same) | np.append(is_same, False))
    places = order[tied]
    order[tied] = places[np.lexsort((places, -scores[places]))]
    return order


def places_in_runs(*keys: NDArray[np.int64]) -> Ints:
    """Return how many of the same keys come directly before each; equal ones lie side by side."""
    number = len(keys[0])
    is_first = np.zeros(number, dtype=np.bool_)
    is_first[:1] = True
    for key in keys:
        is_first[1:] |= key[1:] != key[:-1]
    starts = np.flatnonzero(is_first)
    return np.arange(number) - np.repeat(starts, np.diff(np.append(starts, number)))


def _touching(truth: TrueBoxes, said: SaidBoxes, rows: Ints) -> Pairs:
    """Return the pairs of detections `rows`, which are sorted by image."""
    boxes, images = sorted_by(truth.images), said.images[rows]
    of_image = np.bincount(truth.images, minlength=int(images.max(initial=0)) + 1)
    counts, first = of_image[images], (np.cumsum(of_image) - of_image)[images]
    theirs = np.ascontiguousarray(truth.boxes[boxes].T)
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for part in _parcels(counts):
        ours, number = said.boxes.take(rows[part], axis=0).T, counts[part]
        box = np.repeat(first[part] - (np.cumsum(number) - number), number)
        box += np.arange(len(box))
        width = np.minimum(np.repeat(ours[2], number), theirs[2][box])
        width -= np.maximum(np.repeat(ours[0], number), theirs[0][box])
        near = np.flatnonzero(width > 0)  # most lie apart on one axis already
        detection, box = np.repeat(np.arange(len(number)), number)[near], box[near]
        height = np.minimum(ours[3][detection], theirs[3][box]) - np.maximum(ours[1][detection], theirs[1][box])
        both = np.flatnonzero(height > 0)
        found.append((detection[both] + part.start, boxes[box[both]], width[near[both]] * height[both]))
    detection, box, overlap = (np.concatenate(column) for column in zip(*found, strict=True))
    return Pairs(detection, box, overlap, said.classes[rows][detection] == truth.classes[box])


def _parcels(counts: Ints) -> Iterator[slice]:
    """Yield slices of detections, each with so many true boxes, of about `MOST_PAIRS` pairs."""
    up_to = np.cumsum(counts)
    ends = np.searchsorted(up_to, np.arange(MOST_PAIRS, int(up_to[-1:].sum()) + MOST_PAIRS, MOST_PAIRS))
    ends = np.unique(np.minimum(ends + 1, len(counts)))
    yield from map(slice, [0, *ends[:-1].tolist()], ends.tolist())
