"""What a localizer says of images that belong to no run: one box each, as `raydet evaluate` measures it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raydet.families.localization.model import LocalizationModel, shares
from raydet.families.localization.saved import SavedLocalizer
from raydet.families.localization.views import eval_view
from raydet.vision.geometry import View, clip_boxes

LEAST_PX = 1.0  # sides of a box: every image gets one


@dataclass(frozen=True, slots=True, eq=False)
class SeenImage:
    """The test view of an image."""

    pixels: Tensor  # [3, S, S] uint8
    view: View
    size: tuple[int, int]  # (height, width) of the original


class LocalizerOnFiles:
    """A `FileModel`: the test view and `method.locate`, by the map of the best class where that matters.

    The class is the classifier's best one of the whole view; the score is its confidence in the crop, which LCHP's gate
    compares with `method.crop_confidence_threshold`.
    """

    def __init__(self, saved: SavedLocalizer) -> None:
        self.model, self._method, self._num_classes = saved.model, saved.method, len(saved.class_names)

    @property
    def thresholds(self) -> list[float]:
        """Every image gets its box, however unsure: a higher `--score-threshold` leaves images without one."""
        return [0.0] * self._num_classes

    @property
    def has_masks(self) -> bool:
        """Return False: it says boxes."""
        return False

    @property
    def gray16_range(self) -> tuple[int, int]:
        """Return the values of 16-bit pictures that become 0 to 255."""
        return self._method.run.data.views.gray16_range

    def settings(self) -> dict[str, Any]:
        """Return the settings of networks, method and test view."""
        config = self._method.run
        views = config.data.views.model_dump(mode="json", include={"resize", "size", "test_view"})
        method = config.method.model_dump(mode="json")
        return {"model": config.model.model_dump(mode="json"), "method": method, "views": views}

    def see(self, pixels: Tensor) -> SeenImage:
        """Return the test view."""
        viewed, view = eval_view(pixels, self._method.run.data.views)
        return SeenImage(viewed, view, (int(pixels.shape[1]), int(pixels.shape[2])))

    def say(self, model: LocalizationModel, seen: Sequence[SeenImage], device: torch.device) -> list[dict[str, Any]]:
        """Return one box of each, in original pixels."""
        pixels = shares(torch.stack([each.pixels for each in seen]), device)
        classes = model.classifier(pixels).logits.argmax(dim=1)
        boxes = self._method.locate(model, pixels, classes)[:, self._method.own_threshold]
        confidence = self._method.confidence(model, pixels, boxes)
        side = int(pixels.shape[-1])
        columns = zip(seen, boxes.float().cpu() * side, classes.tolist(), confidence.tolist(), strict=True)
        return [_row(image, box, label, sure) for image, box, label, sure in columns]


def _row(image: SeenImage, box: Tensor, label: int, confidence: float) -> dict[str, Any]:
    height, width = image.size
    found = clip_boxes(image.view.to_original(box[None]), height, width)[0]
    low = torch.minimum(found[:2], torch.tensor([width, height]) - LEAST_PX).clamp(min=0)
    found = torch.cat([low, torch.maximum(found[2:], low + LEAST_PX)])
    return {
        "width": width,
        "height": height,
        "boxes": found.numpy(),
        "classes": [label],
        "scores": [confidence],
        "quality": [1.0],
    }
