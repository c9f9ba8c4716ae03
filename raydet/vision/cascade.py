"""The RoI heads of Cascade R-CNN (Cai & Vasconcelos, CVPR 2018: "Delving into High Quality Object Detection").

    f(x, b) = f_T o f_{T-1} o ... o f_1 (x, b)                                             (section 4.1)
    L = sum over t of w_t * (L_cls(h_t(x_t), y_t) + [y_t >= 1] L_loc(f_t(x_t, b_t), g))                 (section 4.2)
    b_t = f_{t-1}(x_{t-1}, b_{t-1}): stage t takes the boxes that stage t - 1 has moved;
    y_t is the class of g where IoU(b_t, g) >= u_t, else background

Each stage has a box head and a predictor of its own, and the same box deltas whatever the class. Weights are named
`roi_heads.box_head.STAGE.*` and `roi_heads.box_predictor.STAGE.*`, otherwise as torchvision names those of one stage.

| paper | code | value |
|---|---|---|
| u_t | model.cascade.ious | 0.5, 0.6, 0.7 |
| 1 / sigma of the deltas of stage t | model.cascade.box_weights | (10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15) |

Deviations: CASCADE-D1 each classifier scores the boxes of its own stage, and the mean of the three counts (detectron2);
the paper's classifiers all score the third stage's boxes. CASCADE-D2 what every stage sends back into the pyramid is
divided by the number of stages (detectron2), so that a cascade does not train the backbone three times as hard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import clip_boxes_to_image

from raydet.config.detector import ModelConfig
from raydet.vision.matching import match
from raydet.vision.roi import PooledHeads, RoiScores, SampledRois, init_as_detectron2


class CascadeHeads(PooledHeads):
    """Several box heads in a row, each more demanding than the one before."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        cascade, dim = config.cascade, config.box_head_dim
        super().__init__(config, cascade.ious[0])
        self.coders = tuple(BoxCoder(weights) for weights in cascade.box_weights)
        self.matchers = [Matcher(iou, iou, allow_low_quality_matches=False) for iou in cascade.ious]
        self.box_head = nn.ModuleList()
        self.box_predictor = nn.ModuleList()
        for _ in cascade.ious:
            head = TwoMLPHead(config.fpn_channels * config.roi_pool_size**2, dim)
            predictor = FastRCNNPredictor(dim, num_classes + 1)
            predictor.bbox_pred = nn.Linear(dim, 4)
            init_as_detectron2(head, predictor)
            self.box_head.append(head)
            self.box_predictor.append(predictor)

    def forward(self, features: Mapping[str, Tensor], rois: Sequence[Tensor] | Tensor, stage: int = 0) -> RoiScores:
        """Score RoIs with the head of a stage, from 0 on; see `RoiHeads.forward`. Box deltas are `[R, 4]`."""
        pooled = self.pool(features, rois, self.config.roi_pool_size)
        if pooled.requires_grad:
            pooled.register_hook(lambda gradient: gradient / len(self.coders))  # type: ignore[no-untyped-call]
        shared = self.box_head[stage](pooled)
        logits, deltas = self.box_predictor[stage](shared)
        return RoiScores(shared, logits.float(), deltas.float())

    def relabelled(self, stage: int, rois: Tensor, boxes: Tensor, labels: Tensor) -> SampledRois:
        """Return one image's RoIs `[R, 4]` as a stage is trained on them: all of them, none is drawn anew.

        `boxes` `[G, 4]` and `labels` `[G]`, from 1 on, are the true ones. RoIs that were moved out of the image have no
        inside left and are dropped.
        """
        rois = rois[(rois[:, 2:] > rois[:, :2]).all(dim=1)]
        matched = match(rois, boxes, self.matchers[stage])
        is_foreground = matched >= 0
        own = matched[is_foreground]
        chosen = torch.zeros_like(matched)
        chosen[is_foreground] = labels[own]
        return SampledRois(rois, chosen, boxes[own], own)


@torch.no_grad()
def moved(
    coder: BoxCoder, box_deltas: Tensor, rois: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
) -> list[Tensor]:
    """Return each image's RoIs `[R_i, 4]` where deltas `[R, 4]` move them, clipped to its (height, width).

    No gradient: a stage does not learn through the boxes of the one before.
    """
    boxes = coder.decode_single(box_deltas, torch.cat(list(rois)))
    parts = torch.split(boxes, [len(each) for each in rois])
    return [clip_boxes_to_image(part, size) for part, size in zip(parts, sizes, strict=True)]
