"""Cascade R-CNN's RoI heads (Cai and Vasconcelos, CVPR 2018, "Cascade R-CNN: Delving into High Quality Object
Detection").

A stage classifies RoIs and moves them; the next one is trained, and works, on the boxes that this one decided on
(their section 4.1, f_T o ... o f_1). Stage k asks for a higher IoU of its foreground (.5, .6, .7), encodes finer moves
(weights 10k, 10k, 5k, 5k) and moves a box to one place, whatever its class. Detections are what the last stage makes of
its RoIs, scored by the mean of the probabilities that the heads of all stages give these RoIs.

Weights: `roi_heads.stages.0.box_head.*`, `roi_heads.stages.0.box_predictor.*`, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from raydet.config.detector import ModelConfig
from raydet.vision.box_code import BoxCoder
from raydet.vision.roi import RoiHeads, RoiScores

LEAST = torch.finfo(torch.float32).tiny


class CascadeHeads(nn.Module):
    """Heads that follow each other."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for k, iou in enumerate(config.cascade_ious, start=1):
            coder = BoxCoder((10.0 * k, 10.0 * k, 5.0 * k, 5.0 * k))
            self.stages.append(RoiHeads(config, num_classes, fg_iou=iou, coder=coder, one_box=True))

    @property
    def heads(self) -> tuple[RoiHeads, ...]:
        """Return the heads, first to last."""
        return tuple(cast(RoiHeads, stage) for stage in self.stages)

    def forward(self, features: Mapping[str, Tensor], rois: Sequence[Tensor] | Tensor) -> RoiScores:
        """Score RoIs of the last stage, see `RoiHeads.forward`: by its own head, and by all heads together."""
        pooled = self.heads[-1].pool(features, rois)
        said = [head.judge(pooled) for head in self.heads]
        mean = torch.stack([each.class_logits.softmax(dim=1) for each in said]).mean(dim=0)
        last = said[-1]
        # The softmax of logarithms of probabilities is these; no logit is infinite.
        return RoiScores(last.shared, last.class_logits, last.box_deltas, mean.clamp(min=LEAST).log())


@torch.no_grad()
def refined(head: RoiHeads, said: RoiScores, rois: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return the RoIs `[R_i, 4]` of each image as a head moves them, clipped to the image: those of the next stage."""
    found = torch.split(moved(head, said, torch.cat(list(rois))), [len(each) for each in rois])
    return [clip_boxes_to_image(boxes, size) for boxes, size in zip(found, sizes, strict=True)]


def moved(head: RoiHeads, said: RoiScores, rois: Tensor) -> Tensor:
    """Return where a head that moves RoIs `[R, 4]` to one place each does so, not clipped."""
    boxes: Tensor = head.coder.decode(said.box_deltas[:, :4], rois)
    return boxes
