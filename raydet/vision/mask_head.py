"""Mask R-CNN's RoI heads (He et al., ICCV 2017): Faster R-CNN's, and a small convolutional network that says of each
RoI and class which part of it the object covers.

Its state-dict keys are those of torchvision's `RoIHeads` of a `MaskRCNN`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from raydet.config.detector import ModelConfig
from raydet.records import Candidates
from raydet.vision.roi import RoiHeads


class MaskHeads(RoiHeads):
    """Box head and mask head."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        channels = config.mask_head_channels
        self.mask_head = MaskRCNNHeads(config.fpn_channels, (channels,) * config.mask_head_convs, 1)
        self.mask_predictor = MaskRCNNPredictor(channels, channels, num_classes + 1)
        nn.init.normal_(self.mask_predictor.mask_fcn_logits.weight, std=0.001)  # detectron2's: begins undecided

    def mask_logits(self, features: Mapping[str, Tensor], rois: Sequence[Tensor]) -> Tensor:
        """Return `[R, K + 1, M, M]` float32 for the RoIs `rois[i]` `[R_i, 4]` of image i, those of image 0 first.

        M is twice `model.mask_pool_size`. Class 0 is background: its masks are never trained and never read.
        """
        logits: Tensor = self.mask_predictor(self.mask_head(self.pool(features, rois, self.config.mask_pool_size)))
        return logits.float()

    @torch.no_grad()
    def with_masks(self, features: Mapping[str, Tensor], found: Sequence[Candidates]) -> list[Candidates]:
        """Return each image's detections with the mask of each one's own class."""
        logits = self.mask_logits(features, [each.boxes for each in found])
        classes = torch.cat([each.classes for each in found])
        own = logits[torch.arange(len(classes), device=classes.device), classes + 1].sigmoid()
        parts = torch.split(own, [len(each) for each in found])
        return [each.with_masks(masks) for each, masks in zip(found, parts, strict=True)]
