"""Pseudo-labels in the manner of PSOL (Zhang et al., "Rethinking the Route Towards Weakly Supervised Object
Localization", CVPR 2020): a classifier's boxes, once it is trained, teach a network that says boxes.

    stage 1   L = cross-entropy
    stage 2   L = 1/N sum_i ||Loc(I) - y||^2,   y the class activation map's box of the image's own class

PSOL-D1: boxes come from class activation maps; theirs from co-localisation (DDT) over all images of a class. PSOL-D2:
they are made of each view when it is trained on, by the frozen classifier; theirs once, of the whole image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raydet.contract import Alarm, LossTerm, Outputs, ParamGroup
from raydet.families.localization.assemble import WHOLE, alarm_of_whole_images
from raydet.families.localization.batch import IMAGES, LocationBatch
from raydet.families.localization.boxes import decode, encode, squared_distance
from raydet.families.localization.config import PsolConfig
from raydet.families.localization.method import LocalizationMethod
from raydet.families.localization.methods.cam import cam_boxes, class_loss
from raydet.families.localization.model import LocalizationModel, build_localizer, cam_classifier, shares
from raydet.vision.device import to_device
from raydet.vision.geometry import box_areas
from raydet.vision.mode import evaluating
from raydet.window import Window


class Psol(LocalizationMethod):
    """First a classifier, then a localizer that learns its boxes."""

    settings = PsolConfig
    config: PsolConfig
    unseen_by_burn_in = frozenset({"cam_threshold", "localizer_lr", "box_encoding", "reg_reduction"})

    @property
    def loss_weights(self) -> dict[str, float]:
        """One term for each stage."""
        return {"init/cls": 1.0, "boxes/reg": 1.0}

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The classifier, then the localizer."""
        return ("init", "boxes")

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """The classifier freezes, and the localizer begins."""
        return (self.config.burn_in_steps,)

    def build_model(self, num_classes: int) -> LocalizationModel:
        """Return both networks."""
        return LocalizationModel(cam_classifier(self.run.model, num_classes), build_localizer(self.run.model))

    def param_groups(self) -> list[ParamGroup]:
        """One of the two networks is trained at a time."""
        first = self.config.burn_in_steps

        def classifier(step: int) -> float | None:
            return self.classifier_lr_at(step) if step < first else None

        return self.groups(classifier, lambda step: None if step < first else self.config.localizer_lr)

    def losses(self, student: LocalizationModel, batch: LocationBatch, teacher: Any, state: Any) -> Outputs:
        """Return the term of the batch's stage; the other one has no elements."""
        if batch.step < self.config.burn_in_steps:
            term = class_loss(student, batch)
            return Outputs({"init/cls": term, "boxes/reg": LossTerm(term.total * 0.0, torch.tensor(0), IMAGES)})
        assert student.localizer is not None
        device = next(student.parameters()).device
        pixels, classes = shares(batch.pixels, device), to_device(batch.classes, device)
        with evaluating(student.classifier):
            boxes = cam_boxes(student.classifier, pixels, classes, (self.config.cam_threshold,))[:, 0]
        wanted = encode(boxes, self.config.box_encoding)
        rows = squared_distance(student.localizer(pixels), wanted, self.config.reg_reduction)
        term = LossTerm(rows.sum(), torch.tensor(len(classes)), IMAGES)
        area = box_areas(boxes)
        figures = {"box_area": area, "is_whole": (area > WHOLE).float()}
        return Outputs({"init/cls": LossTerm(term.total * 0.0, torch.tensor(0), IMAGES), "boxes/reg": term}, figures)

    def locate(self, model: LocalizationModel, pixels: Tensor, classes: Tensor) -> Tensor:
        """Return what the localizer says."""
        assert model.localizer is not None
        return decode(model.localizer(pixels), self.config.box_encoding)[:, None]

    def pseudo_boxes_of(self, model: LocalizationModel, pixels: Tensor, classes: Tensor) -> Tensor | None:
        """Return the boxes of class activation maps."""
        return cam_boxes(model.classifier, pixels, classes, (self.config.cam_threshold,))[:, 0]

    def explain_barren(self, window: Window) -> Alarm | None:
        """Say that most boxes are the whole image."""
        advice = f"raise method.cam_threshold={self.config.cam_threshold:g}"
        return alarm_of_whole_images(window, advice, self.config.alarm_after_steps)
