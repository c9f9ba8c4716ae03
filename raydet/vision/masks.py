"""Mask R-CNN (He et al., ICCV 2017): Faster R-CNN with a third branch, which says which pixels are the object's.

The branch's weights carry torchvision's names (`roi_heads.mask_head.*`, `roi_heads.mask_predictor.*`), so that a whole
detector loads into torchvision's `MaskRCNN`. Class 0 is background; its masks are never trained and never read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import roi_align

from raydet.config.detector import ModelConfig
from raydet.vision.detector import Detector
from raydet.vision.roi import pool_rois

POOLED_SIDE, LAYERS, WIDTH = 14, 4, 256  # their Figure 4, right; masks come out twice as large
IS_OBJECT = 0.5  # a pixel is the object's from this probability on


class MaskDetector(Detector):
    """A detector with the branch."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        """Build a detector for `num_classes` classes without background.

        Raises CheckpointError where `config.weights` cannot be used.
        """
        super().__init__(config, num_classes)
        self.roi_heads.mask_head = MaskRCNNHeads(config.fpn_channels, (WIDTH,) * LAYERS, dilation=1)
        self.roi_heads.mask_predictor = MaskRCNNPredictor(WIDTH, WIDTH, num_classes + 1)
        self.to(memory_format=torch.channels_last)

    def mask_logits(self, features: dict[str, Tensor], rois: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return logits `[R, 28, 28]` float32 of the masks of RoIs `rois[i]` `[R_i, 4]` of each image.

        `labels` `[R]`: the class of each, from 1 on. A mask covers its RoI.
        """
        config, head = self.config, self.heads[0]
        pooled = pool_rois(
            list(features.values())[: len(head.strides)],
            rois,
            strides=head.strides,
            side=POOLED_SIDE,
            sampling_ratio=config.roi_sampling_ratio,
            aligned=config.roi_align_aligned,
        )
        every: Tensor = self.roi_heads.mask_predictor(self.roi_heads.mask_head(pooled))
        return every[torch.arange(len(labels), device=labels.device), labels].float()

    @torch.no_grad()
    def masks(self, features: dict[str, Tensor], boxes: Sequence[Tensor], classes: Tensor) -> Tensor:
        """Return the probabilities `[R, 28, 28]` of the masks of detections; `classes` `[R]` from 0 on."""
        return self.mask_logits(features, boxes, classes + 1).sigmoid()


def mask_rows(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return the loss `[R]` of each mask: binary cross-entropy, averaged over the pixels of `[R, 28, 28]`.

    Their mean over the foreground RoIs is the paper's L_mask.
    """
    return F.binary_cross_entropy_with_logits(logits, wanted.to(logits), reduction="none").mean(dim=(1, 2))


def mask_targets(objects: Tensor, matched: Tensor, rois: Tensor, side: int = 2 * POOLED_SIDE) -> Tensor:
    """Return what masks `[R, side, side]` of one image's RoIs `[R, 4]` should be, in [0, 1].

    `objects` `[G, H, W]`: the true masks in the frame that the RoIs are of, 0 or 1; `matched` `[R]`: which is whose.
    """
    rows = torch.cat([matched[:, None].to(rois), rois], dim=1)
    found: Tensor = roi_align(objects[:, None].to(rois), rows, (side, side), 1.0)
    return found[:, 0]


def pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return which pixels detections consist of, `[N, H, W]` bool, from probabilities `[N, 28, 28]` within their boxes.

    `size`: (height, width) of the image whose pixels the boxes `[N, 4]` are of.
    """
    found: Tensor = paste_masks_in_image(masks[:, None], boxes, size)
    return found[:, 0] >= IS_OBJECT
