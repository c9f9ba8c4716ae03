"""Which views are made of an image: of a labelled one, for the teacher, and for the student.

A recipe is a pure function of pixels and random streams. What it draws is drawn from the stream that it is given, so
that a view is the same wherever, and whenever, it is made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raydet.config.box_data import ViewsConfig
from raydet.families.detection.colors import Colors, drawn, with_pillow
from raydet.families.detection.views import weak_view
from raydet.vision.geometry import View


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """Pixels `[3, H, W]` uint8 of a view, and the colours that the device which trains is to give them."""

    pixels: Tensor
    colors: Colors | None = None


Copy = Literal["strong", "weak"]
"""How a copy of a labelled image looks: with the colours of the strong view, or as it is."""
RngOf = Callable[[str], torch.Generator]
"""A purpose -> the stream that is drawn from for it."""


class ViewRecipe(ABC):
    """The views of a method."""

    shows_teacher_views: bool = False
    """Whether a batch holds the teacher's views too, because the student's loss looks at them."""

    @property
    @abstractmethod
    def roles(self) -> tuple[str, ...]:
        """Return what the copies of a labelled image are called; the names of the streams of their samples."""

    @abstractmethod
    def labeled(self, pixels: Tensor, rng_of: RngOf) -> tuple[list[Look], View]:
        """Return the copies of a labelled image `[3, H, W]` uint8, one per role; they share one geometry."""

    @abstractmethod
    def teacher(self, pixels: Tensor, rng: torch.Generator) -> tuple[Tensor, View]:
        """Return an image as the teacher sees it."""

    @abstractmethod
    def student(
        self, seen: tuple[Tensor, View], original: Callable[[], Tensor], rng: torch.Generator
    ) -> tuple[Look, View]:
        """Return an unlabelled image as the student sees it; `seen` is the teacher's view, `original()` decodes."""


class SharedGeometry(ViewRecipe):
    """Teacher and student see one geometry; the student's colours are changed (Unbiased Teacher)."""

    def __init__(self, config: ViewsConfig, copies: Sequence[Copy] = ("strong", "weak")) -> None:
        self._config, self._copies = config, tuple(copies)

    @property
    def roles(self) -> tuple[str, ...]:
        """One per copy."""
        return tuple(f"labeled-{copy}" for copy in self._copies)

    def labeled(self, pixels: Tensor, rng_of: RngOf) -> tuple[list[Look], View]:
        """Resize and flip once; change colours for strong copies."""
        weak, view = weak_view(pixels, self._config, rng_of("labeled-weak"))
        found = [
            self._strong(weak, rng_of(f"labeled-{copy}")) if copy == "strong" else Look(weak) for copy in self._copies
        ]
        return found, view

    def teacher(self, pixels: Tensor, rng: torch.Generator) -> tuple[Tensor, View]:
        """Resize and flip."""
        return weak_view(pixels, self._config, rng)

    def student(
        self, seen: tuple[Tensor, View], original: Callable[[], Tensor], rng: torch.Generator
    ) -> tuple[Look, View]:
        """Change the colours of the teacher's view."""
        pixels, view = seen
        return self._strong(pixels, rng), view

    def _strong(self, pixels: Tensor, rng: torch.Generator) -> Look:
        colors = drawn(pixels.shape[1], pixels.shape[2], self._config, rng)
        return Look(pixels, colors) if self._config.colors_on == "device" else Look(with_pillow(pixels, colors))
