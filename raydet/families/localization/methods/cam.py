"""Class activation maps (Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016).

    M_c(x, y) = sum_k w_k^c f_k(x, y)                                                                 (2)

A 3 x 3 convolution, an average over the image and a linear layer on top of a trunk; the box is tight around the largest
connected part of what is at least `cam_threshold` of the map's range. The map is that of the true class
where it is known (GT-Known, and Top-1, which asks for the true class anyway).

CAM-D1: the map is scaled between its minimum and its maximum (theirs: divided by its maximum), so that negative values
do no harm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from raydet.contract import LossTerm, Outputs, ParamGroup
from raydet.families.localization.batch import IMAGES, LocationBatch
from raydet.families.localization.components import largest_boxes
from raydet.families.localization.config import CamConfig, LocalizationConfig
from raydet.families.localization.method import LocalizationMethod
from raydet.families.localization.model import CamClassifier, LocalizationModel, cam_classifier, shares
from raydet.vision.device import to_device

LEVELS = tuple(round(0.1 * step, 1) for step in range(1, 10))
"""Thresholds that MaxBoxAcc chooses among, beside the method's own."""


class Cam(LocalizationMethod):
    """A classifier, and where it looks."""

    settings = CamConfig
    config: CamConfig

    def __init__(self, config: LocalizationConfig) -> None:
        super().__init__(config)
        own = self.config.cam_threshold
        self.thresholds = (own, *(level for level in LEVELS if level != own))

    @property
    def loss_weights(self) -> dict[str, float]:
        """One term."""
        return {"init/cls": 1.0}

    @property
    def stage_names(self) -> tuple[str, ...]:
        """One stage."""
        return ("init",)

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """Nothing changes on the way."""
        return ()

    def build_model(self, num_classes: int) -> LocalizationModel:
        """Return the classifier alone."""
        return LocalizationModel(cam_classifier(self.run.model, num_classes), None)

    def param_groups(self) -> list[ParamGroup]:
        """One group with the classifier's law."""
        return [ParamGroup("classifier", lambda name: True, self.classifier_lr_at)]

    def losses(self, student: LocalizationModel, batch: LocationBatch, teacher: Any, state: Any) -> Outputs:
        """Return the cross-entropy."""
        return Outputs({"init/cls": class_loss(student, batch)})

    def locate(self, model: LocalizationModel, pixels: Tensor, classes: Tensor) -> Tensor:
        """Return a box for each threshold."""
        return cam_boxes(model.classifier, pixels, classes, self.thresholds)


def class_loss(student: LocalizationModel, batch: LocationBatch) -> LossTerm:
    """Return the cross-entropy of plain views, summed over the images."""
    device = next(student.parameters()).device
    logits = student.classifier(shares(batch.pixels, device)).logits
    total = F.cross_entropy(logits, to_device(batch.classes, device), reduction="sum")
    return LossTerm(total, torch.tensor(len(batch.classes)), IMAGES)


def cam_boxes(classifier: Any, pixels: Tensor, classes: Tensor, thresholds: tuple[float, ...]) -> Tensor:
    """Return the boxes `[B, T, 4]` in shares of the maps of `classes` `[B]`, one for each threshold."""
    assert isinstance(classifier, CamClassifier)
    size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
    maps = classifier.activation(classifier(pixels), classes)
    return torch.stack([largest_boxes(maps, size, level) for level in thresholds], dim=1) / size[0]
