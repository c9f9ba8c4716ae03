"""What a data set holds, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raydet.data.boxes.source import Table
from raydet.text import plural

_SMALL, _MEDIUM = 32**2, 96**2  # COCO's bounds of the areas of small and medium objects (square pixels)


@dataclass(frozen=True, slots=True)
class SetSummary:
    """One data set, as far as it is usable."""

    name: str  # labeled, unlabeled, val, test, or "data" where it is checked alone
    path: str
    format: str
    images: int
    images_without_boxes: int
    boxes: int  # to train on or to find: without crowd
    crowd_boxes: int
    boxes_per_class: dict[str, int]
    image_sides: tuple[int, int, int]  # smallest, median and largest side (pixels)
    box_sizes: tuple[int, int, int]  # small, medium and large in COCO's sense
    most_boxes: int  # in one image, crowd included

    @property
    def num_classes(self) -> int:
        """Return how many classes the set knows."""
        return len(self.boxes_per_class)

    def headline(self) -> str:
        """Return its name and size."""
        return f"{self.name} {plural(self.images, 'image')}, {plural(self.boxes, 'box')}"

    def __str__(self) -> str:
        low, middle, high = self.image_sides
        small, medium, large = self.box_sizes
        lines = [
            f"{self.name}: {self.path} (read as {self.format})",
            f"  {plural(self.images, 'image')}, {self.images_without_boxes:,} of them without boxes; "
            f"sides {low:,} to {high:,} pixels, median {middle:,}",
        ]
        if self.boxes or self.crowd_boxes:
            lines.append(
                f"  {plural(self.boxes, 'box')} ({small:,} small, {medium:,} medium, {large:,} large), "
                f"{self.crowd_boxes:,} crowd; at most {self.most_boxes:,} in one image"
            )
        if self.boxes_per_class:
            lines.append("  boxes: " + ", ".join(f"{name} {count:,}" for name, count in self.boxes_per_class.items()))
        return "\n".join(lines)


def summarise(name: str, path: str, format: str, table: Table) -> SetSummary:
    """Count what a table holds."""
    counts = np.diff(table.first)
    sides = np.sort(table.sizes.reshape(-1))
    areas = table.areas[~table.crowd]
    small, up_to_medium = int((areas < _SMALL).sum()), int((areas < _MEDIUM).sum())
    return SetSummary(
        name=name,
        path=path,
        format=format,
        images=len(table),
        images_without_boxes=int((counts == 0).sum()),
        boxes=len(areas),
        crowd_boxes=int(table.crowd.sum()),
        boxes_per_class=dict(zip(table.class_names, table.usable_per_class().tolist(), strict=True)),
        image_sides=(int(sides[0]), int(sides[len(sides) // 2]), int(sides[-1])) if len(sides) else (0, 0, 0),
        box_sizes=(small, up_to_medium - small, len(areas) - up_to_medium),
        most_boxes=int(counts.max(initial=0)),
    )
