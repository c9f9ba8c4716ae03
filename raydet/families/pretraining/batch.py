"""A pre-training run's share of one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

IMAGES = "images"


@dataclass(frozen=True, slots=True, eq=False)
class ViewBatch:
    """A pre-training run's `Batch`: three views of every image, with K boxes each that belong together."""

    step: int
    image_ids: list[str]
    slots: tuple[int, ...]  # of the images in the batch of all ranks
    pixels: tuple[Tensor, Tensor, Tensor]  # [B, 3, S, S] uint8; V3 smaller
    boxes: tuple[Tensor, Tensor, Tensor]  # [B, K, 4] float32 xyxy, pixels of each view
    box_ids: Tensor  # [B, K] int64, the same in all views
    matrices: Tensor  # [B, 3, 4] float64: (a, tx, d, ty) of x' = a x + tx, y' = d y + ty from the original to each view
    facts: Tensor  # [B, 2] float32: whether the whole views are the one box, and how many of the K boxes repeat another

    @property
    def sizes(self) -> Mapping[str, int]:
        """Return how many images there are: each is one row of three views."""
        return {IMAGES: len(self.image_ids)}

    def split(self, parts: int) -> list[ViewBatch]:
        """Return it in so many passes; the views of an image stay together."""
        return [self] if parts == 1 else [self._part(part, parts) for part in range(parts)]

    def _part(self, part: int, parts: int) -> ViewBatch:
        number = len(self.image_ids)
        own = slice(part * number // parts, (part + 1) * number // parts)
        (p1, p2, p3), (b1, b2, b3) = self.pixels, self.boxes
        return ViewBatch(
            self.step,
            self.image_ids[own],
            self.slots[own],
            (p1[own], p2[own], p3[own]),
            (b1[own], b2[own], b3[own]),
            self.box_ids[own],
            self.matrices[own],
            self.facts[own],
        )
