"""What an image set holds, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raydet.data.classes.table import NO_LABEL, ImageTable
from raydet.data.evenly import evenly
from raydet.errors import DataError
from raydet.text import plural

_SAMPLE = 500  # images that are looked at for sides and colours, evenly spaced


@dataclass(frozen=True, slots=True)
class Look:
    """What some images of a set look like."""

    images: int  # how many of them
    sides: tuple[int, int, int]  # smallest, median and largest (pixels)
    mean: tuple[float, ...]  # of red, green, blue, 0 to 1
    std: tuple[float, ...]

    def __str__(self) -> str:
        low, middle, high = self.sides
        mean, std = (", ".join(f"{value:.3f}" for value in values) for values in (self.mean, self.std))
        return (
            f"{plural(self.images, 'image')} looked at: sides {low:,} to {high:,} pixels, median {middle:,}; "
            f"red, green, blue: mean [{mean}], std [{std}]"
        )


@dataclass(frozen=True, slots=True)
class ImageSetSummary:
    """One image set, as far as it is usable."""

    name: str  # labeled, unlabeled, val, test, or "data" where it is checked alone
    path: str
    format: str
    images: int
    images_without_label: int
    images_per_class: dict[str, int]
    content_bytes: int  # that go into the index; 0 where images stay files
    look: Look | None  # None where no image was decoded

    @property
    def num_classes(self) -> int:
        """Return how many classes the set knows."""
        return len(self.images_per_class)

    def headline(self) -> str:
        """Return its name and size."""
        return f"{self.name} {plural(self.images, 'image')} of {plural(self.num_classes, 'class')}"

    def __str__(self) -> str:
        size = f"{self.content_bytes / 2**20:,.1f} MiB in the index" if self.content_bytes else "in files of their own"
        lines = [
            f"{self.name}: {self.path} (read as {self.format})",
            f"  {plural(self.images, 'image')}, {size}; {self.images_without_label:,} without a label",
        ]
        if self.look is not None:
            lines.append(f"  {self.look}")
        if self.images_per_class:
            lines.append("  images: " + ", ".join(f"{name} {count:,}" for name, count in self.images_per_class.items()))
        return "\n".join(lines)


def summarise(name: str, path: str, format: str, table: ImageTable, *, look: bool) -> ImageSetSummary:
    """Count what a table holds; with `look` some images are decoded."""
    sizes = sum(buffer.size for buffer in table.content.buffers()[2:] if buffer is not None)
    return ImageSetSummary(
        name=name,
        path=path,
        format=format,
        images=len(table),
        images_without_label=int((table.labels == NO_LABEL).sum()),
        images_per_class=dict(zip(table.class_names, table.images_per_class().tolist(), strict=True)),
        content_bytes=0 if table.holds_files else sizes,
        look=look_at(table) if look else None,
    )


def look_at(table: ImageTable) -> Look | None:
    """Decode some images; each counts the same in mean and deviation, whatever its size."""
    sides: list[int] = []
    means, squares = [], []
    for row in evenly(len(table), _SAMPLE):
        try:
            pixels = table.pixels_at(row)
        except DataError:  # reported where all images are decoded
            continue
        sides += pixels.shape[1:]
        colours = pixels.flatten(1).double() / 255
        means.append(colours.mean(1).numpy())
        squares.append((colours**2).mean(1).numpy())
    if not means:
        return None
    mean = np.mean(means, axis=0)
    std = np.sqrt(np.maximum(np.mean(squares, axis=0) - mean**2, 0))
    sides.sort()
    spread = (sides[0], sides[len(sides) // 2], sides[-1])
    return Look(len(means), spread, tuple(mean.tolist()), tuple(std.tolist()))
