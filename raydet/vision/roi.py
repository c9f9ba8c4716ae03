"""The RoI head: pooling from the pyramid, torchvision's box head and predictor, sampling for training.

Its state-dict keys are those of torchvision's `RoIHeads`. Class 0 is background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead

from raydet.config.detector import ModelConfig
from raydet.vision.box_code import BoxCoder
from raydet.vision.matching import Matcher, match, sample
from raydet.vision.norms import norm_layer
from raydet.vision.roi_pooling import pool_rois

box_coder = BoxCoder((10.0, 10.0, 5.0, 5.0))


@dataclass(frozen=True, slots=True, eq=False)
class RoiScores:
    """What the head says about R RoIs."""

    shared: Tensor  # [R, D], feature after the box head; lower precision under autocast
    class_logits: Tensor  # [R, K + 1] float32
    box_deltas: Tensor  # [R, 4 * (K + 1)] float32
    ensemble: Tensor | None = None  # [R, K + 1] float32, logits of several heads together, where there are several

    @property
    def decided(self) -> Tensor:
        """Return the logits `[R, K + 1]` that detections are scored by."""
        return self.class_logits if self.ensemble is None else self.ensemble


@dataclass(frozen=True, slots=True, eq=False)
class SampledRois:
    """The RoIs one image is trained on, foreground first."""

    boxes: Tensor  # [S, 4] float32 xyxy
    labels: Tensor  # [S] int64, 0 is background
    matched: Tensor  # [F, 4] float32 xyxy: the true boxes of the foreground
    matched_rows: Tensor | None = None  # [F] int64: which of the image's boxes these are

    @property
    def num_foreground(self) -> int:
        """How many of the RoIs, from the first on, are foreground."""
        return len(self.matched)


class RoiHeads(nn.Module):
    """Classifies RoIs and moves their boxes."""

    def __init__(
        self,
        config: ModelConfig,
        num_classes: int,
        *,
        fg_iou: float | None = None,
        coder: BoxCoder = box_coder,
        one_box: bool = False,
    ) -> None:
        """`fg_iou`: in place of `roi_fg_iou`. With `one_box` the head moves an RoI to one place, whatever its class."""
        super().__init__()
        self.config, self.coder = config, coder
        self.strides = config.pooled_strides
        self.box_head = build_box_head(config)
        self.box_predictor = FastRCNNPredictor(config.box_head_dim, num_classes + 1)
        if one_box:
            self.box_predictor.bbox_pred = nn.Linear(config.box_head_dim, 4)
        threshold = config.roi_fg_iou if fg_iou is None else fg_iou
        self.matcher = Matcher(threshold, threshold)
        self._init_weights()

    @property
    def heads(self) -> tuple[RoiHeads, ...]:
        """Return the heads that follow each other: this one alone."""
        return (self,)

    def forward(self, features: Mapping[str, Tensor], rois: Sequence[Tensor] | Tensor) -> RoiScores:
        """Score the RoIs `rois[i]` `[R_i, 4]` of image i; rows of the result are those of image 0, then 1, ...

        Or all RoIs as one tensor `[R, 5]`, each with the number of its image in front.
        """
        return self.judge(self.pool(features, rois))

    def pool(self, features: Mapping[str, Tensor], rois: Sequence[Tensor] | Tensor, side: int | None = None) -> Tensor:
        """Return what of the pyramid lies within each RoI, `[R, C, side, side]`; by default `roi_pool_size`."""
        config = self.config
        maps = list(features.values())[: len(self.strides)]
        return pool_rois(
            maps,
            rois,
            strides=self.strides,
            side=config.roi_pool_size if side is None else side,
            sampling_ratio=config.roi_sampling_ratio,
            aligned=config.roi_align_aligned,
        )

    def judge(self, pooled: Tensor) -> RoiScores:
        """Score RoIs `[R, C, side, side]`."""
        shared = self.box_head(pooled)
        logits, deltas = self.box_predictor(shared)
        if deltas.shape[1] == 4:  # one place for all classes
            deltas = deltas.repeat(1, logits.shape[1])
        return RoiScores(shared, logits.float(), deltas.float())

    def sample(
        self,
        proposals: Sequence[Tensor],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        rngs: Sequence[torch.Generator],
    ) -> tuple[SampledRois, ...]:
        """Draw each image's RoIs from its proposals `[P, 4]` and its true boxes `[G, 4]`, labels `[G]` from 1 on.

        True boxes are candidates too: early on they are the only well placed foreground.
        """
        candidates = [torch.cat(each) for each in zip(proposals, boxes, strict=True)]
        matched = [match(some, true, self.matcher) for some, true in zip(candidates, boxes, strict=True)]
        drawn = sample(matched, self.config.roi_batch, self.config.roi_positive_fraction, rngs)
        found = []
        for some, true, kinds, owner, (fg, bg) in zip(candidates, boxes, labels, matched, drawn, strict=True):
            rows = owner[fg]
            chosen = torch.cat([kinds[rows], torch.zeros_like(bg)])
            found.append(SampledRois(some[torch.cat([fg, bg])], chosen, true[rows], rows))
        return tuple(found)

    def _init_weights(self) -> None:
        """Initialise as detectron2 does: torchvision's defaults start with ten times larger scores."""
        for layer in self.box_head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)
        for layer, std in ((self.box_predictor.cls_score, 0.01), (self.box_predictor.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)


def build_box_head(config: ModelConfig) -> nn.Sequential | TwoMLPHead:
    """Return a module from pooled maps `[R, fpn_channels, side, side]` to `[R, box_head_dim]`, torchvision's."""
    channels, side = config.fpn_channels, config.roi_pool_size
    if config.box_head == "two_fc":
        return TwoMLPHead(channels * side**2, config.box_head_dim)
    norm = norm_layer(config.fpn_norm, is_frozen=config.keeps_norms("box_head"))
    return FastRCNNConvFCHead((channels, side, side), [channels] * 4, [config.box_head_dim], norm)


def by_class(box_deltas: Tensor) -> Tensor:
    """Return deltas `[R, 4 * (K + 1)]` as `[R, K + 1, 4]`."""
    return box_deltas.reshape(box_deltas.shape[0], box_deltas.shape[1] // 4, 4)
