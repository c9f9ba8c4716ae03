"""What a localizer says of images that belong to no run: one box each, as `raydet evaluate` measures it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raydet.families.localization.model import LocalizationModel, shares
from raydet.families.localization.saved import SavedLocalizer
from raydet.families.localization.views import eval_view
from raydet.image_jobs.file_model import FileModel, SeenImage
from raydet.vision.geometry import View, clip_boxes

LEAST_PX = 1.0  # sides of a box: every image gets one


class LocalizerOnFiles(FileModel[LocalizationModel]):
    """The test view and `method.locate`, by the map of the best class where that matters.

    The class is the classifier's best one of the whole view; the score is its confidence in the crop, which LCHP's gate
    compares with `method.crop_confidence_threshold`.
    """

    def __init__(self, saved: SavedLocalizer) -> None:
        super().__init__(saved.model, saved.method.run.data.views)
        self._method, self._num_classes = saved.method, len(saved.class_names)

    @property
    def thresholds(self) -> list[float]:
        """Every image gets its box, however unsure: a higher `--score-threshold` leaves images without one."""
        return [0.0] * self._num_classes

    def settings(self) -> dict[str, Any]:
        """Return the settings of networks, method and test view."""
        config = self._method.run
        views = config.data.views.model_dump(mode="json", include={"resize", "size", "test_view"})
        method = config.method.model_dump(mode="json")
        return {"model": config.model.model_dump(mode="json"), "method": method, "views": views}

    def view(self, pixels: Tensor) -> tuple[Tensor, View]:
        """Return the test view."""
        return eval_view(pixels, self._method.run.data.views)

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
