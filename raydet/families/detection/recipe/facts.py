"""What the labelled boxes and their images look like, in the few numbers that decide on a configuration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raydet.data.boxes.source import Table
from raydet.errors import DataError

Floats = NDArray[np.float64]
ENOUGH = 5  # boxes of a class, before its median says something


@dataclass(frozen=True, slots=True, eq=False)
class BoxFacts:
    """N labelled images with B boxes that can be trained on, in original pixels."""

    images: int
    class_names: tuple[str, ...]
    boxes_per_class: tuple[int, ...]
    height: int  # median over the images
    width: int
    stretch: float  # long side / short side of the longest of a hundred images
    smallest_side: int  # of all images
    boxes: Floats  # [B, 4] xyxy
    short_sides: Floats  # [B] of the image of each box
    boxes_per_image: tuple[int, int]  # 90 of 100 images have no more; the most

    @property
    def short_side(self) -> int:
        """Return the short side of the median image."""
        return min(self.height, self.width)

    @property
    def sizes(self) -> Floats:
        """Return the square root of each box's area `[B]`."""
        return np.sqrt((self.boxes[:, 2] - self.boxes[:, 0]) * (self.boxes[:, 3] - self.boxes[:, 1]))


def look_at(table: Table, path: str) -> tuple[BoxFacts, str, float]:
    """Return the facts, and of the class with the smallest boxes its name and their median size (pixels).

    Raises DataError where there is no image or no box.
    """
    if not len(table):
        raise DataError(f"{path}: no image there; nothing can be learnt")
    kept = ~table.crowd
    if not kept.any():
        raise DataError(f"{path}: no box in {len(table)} images; label some, or give them as --unlabeled")
    counts = np.bincount(table.box_rows()[kept], minlength=len(table))
    short, long = table.sizes.min(axis=1), table.sizes.max(axis=1)
    facts = BoxFacts(
        images=len(table),
        class_names=table.class_names,
        boxes_per_class=tuple(table.usable_per_class().tolist()),
        height=int(np.median(table.sizes[:, 0])),
        width=int(np.median(table.sizes[:, 1])),
        stretch=float(np.percentile(long / short, 99)),
        smallest_side=int(short.min()),
        boxes=table.boxes[kept],
        short_sides=short[table.box_rows()[kept]].astype(np.float64),
        boxes_per_image=(int(np.percentile(counts, 90)), int(counts.max())),
    )
    name, size = smallest_class(facts.sizes, table.classes[kept], table.class_names)
    return facts, name, size


def smallest_class(sizes: Floats, classes: NDArray[np.int64], names: tuple[str, ...]) -> tuple[str, float]:
    """Return the class with the smallest median box, of those with five boxes or more, and that median.

    Where no class has so many, all boxes are one class.
    """
    medians = {
        name: float(np.median(sizes[classes == number]))
        for number, name in enumerate(names)
        if (classes == number).sum() >= ENOUGH
    }
    if not medians:
        return "all boxes", float(np.median(sizes))
    name = min(medians, key=lambda each: medians[each])
    return repr(name), medians[name]
