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
    short_side: int  # median over the images, whether they lie or stand
    long_side: int
    stretch: tuple[float, float]  # long side / short side of the median image, and of the longest of a hundred
    boxes: Floats  # [B, 4] xyxy
    classes: NDArray[np.int64]  # [B]
    image_sides: Floats  # [B, 2] short and long side of the image of each box
    boxes_per_image: tuple[int, int]  # 90 of 100 images have no more; the most

    @property
    def sizes(self) -> Floats:
        """Return the square root of each box's area `[B]`."""
        return sizes_of(self.boxes)

    def seen(self, short_side: int, max_long_side: int) -> Floats:
        """Return the boxes `[B, 4]` in pixels of views of these sides; that which is reached first counts."""
        scales = (np.array([short_side, max_long_side]) / self.image_sides).min(axis=1)
        scaled: Floats = self.boxes * scales[:, None]
        return scaled


def sizes_of(boxes: Floats) -> Floats:
    """Return the square roots of the areas `[B]` of boxes `[B, 4]` (xyxy)."""
    sizes: Floats = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    return sizes


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
        short_side=int(np.median(short)),
        long_side=int(np.median(long)),
        stretch=(float(np.median(long / short)), float(np.percentile(long / short, 99))),
        boxes=table.boxes[kept],
        classes=table.classes[kept],
        image_sides=np.stack([short, long], axis=1)[table.box_rows()[kept]].astype(np.float64),
        boxes_per_image=(int(np.percentile(counts, 90)), int(counts.max())),
    )
    return facts, *smallest(facts.sizes, facts.classes, facts.class_names)


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
