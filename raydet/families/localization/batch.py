"""A localizer's share of one training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

IMAGES = "images"


@dataclass(frozen=True, slots=True, eq=False)
class LocationBatch:
    """A localizer's `Batch`: plain views, and how each would become a strong one. There is no box in it."""

    step: int
    image_ids: list[str]
    pixels: Tensor  # [B, 3, S, S] uint8, RGB
    classes: Tensor  # [B] int64
    strong: Tensor  # [B, 8] float64, parameters of `views.strong_pixels`

    @property
    def sizes(self) -> Mapping[str, int]:
        """Return how many views there are: one of each image."""
        return {IMAGES: len(self.classes)}

    def split(self, parts: int) -> list[LocationBatch]:
        """Return it in so many passes."""
        return [self] if parts == 1 else [self._part(part, parts) for part in range(parts)]

    def _part(self, part: int, parts: int) -> LocationBatch:
        own = slice(part * len(self.classes) // parts, (part + 1) * len(self.classes) // parts)
        return LocationBatch(self.step, self.image_ids[own], self.pixels[own], self.classes[own], self.strong[own])
