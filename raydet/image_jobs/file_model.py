"""A family's model, as `raydet label` sets it to work on images that belong to no run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from raydet.config.base import Views
from raydet.vision.geometry import View

AnyModel = TypeVar("AnyModel", bound=nn.Module)


@dataclass(frozen=True, slots=True, eq=False)
class SeenImage:
    """The view of an image that a model is evaluated on."""

    pixels: Tensor  # [3, h, w] uint8
    view: View
    size: tuple[int, int]  # (height, width) of the original


class FileModel(ABC, Generic[AnyModel]):
    """What a family says of images that belong to no run; small but for the model; travels to actors."""

    def __init__(self, model: AnyModel, views: Views) -> None:
        self.model = model  # on the CPU, in evaluation mode
        self.gray16_range = views.gray16_range

    @property
    @abstractmethod
    def thresholds(self) -> Sequence[float] | None:
        """Return the class confidence that its method trains with, of each class; None: it has none."""

    @property
    def has_masks(self) -> bool:
        """Return whether its rows have masks."""
        return False

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return all that its labels depend on, as plain data."""

    @abstractmethod
    def view(self, pixels: Tensor) -> tuple[Tensor, View]:
        """Return the view that it is evaluated on of an image `[3, H, W]` uint8, and how to get there."""

    def see(self, pixels: Tensor) -> SeenImage:
        """Return what the model sees of an image; called in threads that decode."""
        viewed, view = self.view(pixels)
        return SeenImage(viewed, view, (int(pixels.shape[1]), int(pixels.shape[2])))

    @abstractmethod
    def say(self, model: AnyModel, seen: Sequence[SeenImage], device: torch.device) -> Sequence[Mapping[str, Any]]:
        """Return a row for each, from one forward of `model`, which is on `device`."""
