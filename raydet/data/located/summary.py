"""What a set of located images holds, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raydet.data.classes.summary import ImageSetSummary
from raydet.data.classes.summary import summarise as summarise_images
from raydet.data.located.table import LocatedTable
from raydet.text import plural


@dataclass(frozen=True, slots=True)
class LocatedSummary:
    """One set, as far as it is usable."""

    of_images: ImageSetSummary
    boxes: int
    images_with_boxes: int
    most_boxes: int  # in one image

    @property
    def name(self) -> str:
        """Return what the set is for."""
        return self.of_images.name

    @property
    def images(self) -> int:
        """Return how many images it has."""
        return self.of_images.images

    @property
    def num_classes(self) -> int:
        """Return how many classes it knows."""
        return self.of_images.num_classes

    def headline(self) -> str:
        """Return its name and size."""
        return f"{self.of_images.headline()}, {plural(self.boxes, 'box')}"

    def __str__(self) -> str:
        boxes = (
            f"  {plural(self.boxes, 'box')} in {plural(self.images_with_boxes, 'image')}, at most "
            f"{self.most_boxes:,} in one"
        )
        none = "  no boxes: localisation cannot be measured on it"
        return f"{self.of_images}\n{boxes if self.boxes else none}"


def summarise(name: str, path: str, format: str, table: LocatedTable, *, look: bool) -> LocatedSummary:
    """Count what a table holds; with `look` some images are decoded."""
    return LocatedSummary(
        summarise_images(name, path, format, table.images, look=look),
        boxes=len(table.boxes),
        images_with_boxes=int(table.has_boxes.sum()),
        most_boxes=int(np.diff(table.first).max(initial=0)),
    )
