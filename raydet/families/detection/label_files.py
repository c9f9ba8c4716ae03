"""What a detector says of images that belong to no run: the detections that `raydet evaluate` judges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raydet.data.decode import FULL_RANGE
from raydet.families.detection.saved import SavedDetector
from raydet.families.detection.views import eval_view
from raydet.image_jobs.file_model import FileModel, SeenImage
from raydet.records import Candidates
from raydet.train.rundir import flat
from raydet.vision.detector import Detector
from raydet.vision.geometry import View, clip_boxes, is_usable
from raydet.vision.mask_head import MaskHeads
from raydet.vision.masks import pasted


class DetectorOnFiles(FileModel[Detector]):
    """The evaluation view and `method.detect`."""

    def __init__(self, saved: SavedDetector) -> None:
        super().__init__(saved.model, saved.method.run.data.views)
        self._method, self._class_names = saved.method, saved.class_names

    @property
    def thresholds(self) -> list[float] | None:
        """Return the method's score threshold of each class; None: it reads no pseudo-labels."""
        keys = self._method.thresholds
        if keys is None:
            return None
        settings = flat(self._method.run.model_dump(mode="json"))
        return [float(settings.get(f"{keys.by_class}.{name}", settings[keys.score])) for name in self._class_names]

    @property
    def has_masks(self) -> bool:
        """Return whether the detector has a mask head."""
        return isinstance(self.model.roi_heads, MaskHeads)

    def settings(self) -> dict[str, Any]:
        """Return the settings of network, method and evaluation view."""
        config = self._method.run
        views = config.data.views
        return {
            "model": config.model.model_dump(mode="json"),
            "method": config.method.model_dump(mode="json"),
            "views": {"eval_short_side": views.eval_short_side, "max_long_side": views.max_long_side}
            | ({} if views.gray16_range == FULL_RANGE else {"gray16_range": list(views.gray16_range)}),
        }

    def view(self, pixels: Tensor) -> tuple[Tensor, View]:
        """Return the evaluation view."""
        return eval_view(pixels, self._method.run.data.views)

    def say(self, model: Detector, seen: Sequence[SeenImage], device: torch.device) -> list[dict[str, Any]]:
        """Return the detections of each, boxes in original pixels."""
        said = self._method.detect(model, model.framed([each.pixels for each in seen]))
        return [_row(image, each) for image, each in zip(seen, said, strict=True)]


def _row(image: SeenImage, said: Candidates) -> dict[str, Any]:
    height, width = image.size
    boxes = clip_boxes(image.view.to_original(said.boxes.float().cpu()), height, width)
    kept = is_usable(boxes, 0.0)
    masks = {} if said.masks is None else {"masks": pasted(said.masks.cpu()[kept], boxes[kept], height, width)}
    return masks | {
        "width": width,
        "height": height,
        "boxes": boxes[kept].reshape(-1).numpy(),
        "classes": said.classes.cpu()[kept].to(torch.int32).numpy(),
        "scores": said.scores.float().cpu()[kept].numpy(),
        "quality": said.quality.float().cpu()[kept].numpy(),
    }
