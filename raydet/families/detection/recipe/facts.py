"""What the labelled boxes and their images look like, in the few numbers that decide on a configuration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raydet.data.boxes.source import Table
from raydet.errors import DataError
from raydet.text import plural

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


def check_boxes(table: Table, path: str) -> None:
    """Raise DataError where nothing can be trained on."""
    if table.crowd.all():
        raise DataError(
            f"{path}: no box in {plural(len(table), 'image')}; label some of them, or give them as --unlabeled"
        )


def look_at(table: Table, path: str) -> tuple[BoxFacts, str, float]:
    """Return the facts, and what the smallest boxes are: in words, and their size (pixels).

    Raises DataError where there is no box.
    """
    check_boxes(table, path)
    kept = ~table.crowd
    counts = np.bincount(table.box_rows()[kept], minlength=len(table))
    short, long = table.sizes.min(axis=1), table.sizes.max(axis=1)
    facts = BoxFacts(
        images=len(table),
        class_names=table.class_names,
        boxes_per_class=tuple(table.usable_per_class().tolist()),
        height=int(np.median(table.sizes[:, 0])),
        width=int(np.median(table.sizes[:, 1])),
        stretch=float(np.percentile(long / short, 99)),
        boxes=table.boxes[kept],
        short_sides=short[table.box_rows()[kept]].astype(np.float64),
        boxes_per_image=(int(np.percentile(counts, 90)), int(counts.max())),
    )
    return facts, *smallest(facts.sizes, table.classes[kept], table.class_names)


def smallest(sizes: Floats, classes: NDArray[np.int64], names: tuple[str, ...]) -> tuple[str, float]:
    """Return which boxes are to stay visible, and their size: the median of the class with the smallest, of those with
    five boxes or more, or what nine of ten boxes exceed, whichever is less."""
    medians = {
        f"half of class {name!r}": float(np.median(sizes[classes == number]))
        for number, name in enumerate(names)
        if (classes == number).sum() >= ENOUGH
    }
    medians["a tenth of all boxes"] = float(np.percentile(sizes, 10))
    name = min(medians, key=lambda each: medians[each])
    return name, medians[name]
