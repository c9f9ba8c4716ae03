"""The RoI head: pooling from the pyramid, torchvision's box head and predictor, sampling for training.

Its state-dict keys are those of torchvision's `RoIHeads`. Class 0 is background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import roi_align

from raydet.config.detector import ModelConfig
from raydet.vision.geometry import box_areas
from raydet.vision.matching import match, sample

box_coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
CANONICAL_SIDE_PX, CANONICAL_LEVEL = 224, 4  # an RoI of ImageNet's crop size is pooled from stride 2^4 (FPN, Eq. 1)


@dataclass(frozen=True, slots=True, eq=False)
class RoiScores:
    """What the head says about R RoIs."""

    shared: Tensor  # [R, D], feature after the box head; lower precision under autocast
    class_logits: Tensor  # [R, K + 1] float32
    box_deltas: Tensor  # [R, 4 * (K + 1)] float32, or [R, 4]: for all classes the same


@dataclass(frozen=True, slots=True, eq=False)
class SampledRois:
    """The RoIs one image is trained on, as they are drawn foreground first."""

    boxes: Tensor  # [S, 4] float32 xyxy
    labels: Tensor  # [S] int64, 0 is background
    matched: Tensor  # [F, 4] float32 xyxy: the true boxes of the foreground
    matched_rows: Tensor | None = None  # [F] int64: which of the image's boxes these are

    @property
    def num_foreground(self) -> int:
        """How many of the RoIs are foreground."""
        return len(self.matched)


class PooledHeads(nn.Module):
    """What heads on pooled RoIs share: pooling, and sampling for training."""

    coders: tuple[BoxCoder, ...] = (box_coder,)
    """How the box deltas of each stage are meant; as many as there are stages."""

    def __init__(self, config: ModelConfig, fg_iou: float) -> None:
        """`fg_iou`: a proposal is foreground from this IoU on."""
        super().__init__()
        self.config = config
        self.strides = config.pooled_strides
        self.matcher = Matcher(fg_iou, fg_iou, allow_low_quality_matches=False)

    def pool(self, features: Mapping[str, Tensor], rois: Sequence[Tensor] | Tensor, side: int) -> Tensor:
        """Return what lies under the RoIs, `[R, C, side, side]`; see `pool_rois`."""
        return pool_rois(
            list(features.values())[: len(self.strides)],
            rois,
            strides=self.strides,
            side=side,
            sampling_ratio=self.config.roi_sampling_ratio,
            aligned=self.config.roi_align_aligned,
        )

    def sample(self, proposals: Tensor, boxes: Tensor, labels: Tensor, rng: torch.Generator) -> SampledRois:
        """Draw one image's RoIs from its proposals `[P, 4]` and its true boxes `[G, 4]`, labels `[G]` from 1 on.

        True boxes are candidates too: early on they are the only well placed foreground.
        """
        candidates = torch.cat([proposals, boxes])
        matched = match(candidates, boxes, self.matcher)
        fg, bg = sample(matched, self.config.roi_batch, self.config.roi_positive_fraction, rng)
        chosen = torch.cat([labels[matched[fg]], torch.zeros_like(bg)])
        return SampledRois(candidates[torch.cat([fg, bg])], chosen, boxes[matched[fg]], matched[fg])


class RoiHeads(PooledHeads):
    """Classifies RoIs and moves their boxes."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__(config, config.roi_fg_iou)
        self.box_head = TwoMLPHead(config.fpn_channels * config.roi_pool_size**2, config.box_head_dim)
        self.box_predictor = FastRCNNPredictor(config.box_head_dim, num_classes + 1)
        init_as_detectron2(self.box_head, self.box_predictor)

    def forward(self, features: Mapping[str, Tensor], rois: Sequence[Tensor] | Tensor, stage: int = 0) -> RoiScores:
        """Score the RoIs `rois[i]` `[R_i, 4]` of image i; rows of the result are those of image 0, then 1, ...

        Or all RoIs as one tensor `[R, 5]`, each with the number of its image in front. There is one stage.
        """
        shared = self.box_head(self.pool(features, rois, self.config.roi_pool_size))
        logits, deltas = self.box_predictor(shared)
        return RoiScores(shared, logits.float(), deltas.float())


def init_as_detectron2(box_head: TwoMLPHead, box_predictor: FastRCNNPredictor) -> None:
    """Initialise as detectron2 does: torchvision's defaults start with ten times larger scores."""
    for layer in (box_head.fc6, box_head.fc7):
        nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.zeros_(layer.bias)
    for layer, std in ((box_predictor.cls_score, 0.01), (box_predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)


def by_class(box_deltas: Tensor) -> Tensor:
    """Return deltas `[R, 4 * (K + 1)]` as `[R, K + 1, 4]`."""
    return box_deltas.reshape(box_deltas.shape[0], box_deltas.shape[1] // 4, 4)


def for_all_classes(box_deltas: Tensor) -> bool:
    """Return whether deltas are `[R, 4]`, the same whatever class the RoI is of (Cascade R-CNN)."""
    return box_deltas.shape[1] == 4


def own_deltas(box_deltas: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """Return the deltas `[N, 4]` of RoIs `rows` `[N]` as being of classes `labels` `[N]`, background 0."""
    return box_deltas[rows] if for_all_classes(box_deltas) else by_class(box_deltas)[rows, labels]


def pool_rois(
    features: Sequence[Tensor],
    rois: Sequence[Tensor] | Tensor,
    *,
    strides: Sequence[int],
    side: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign each RoI from the level that fits its size: `[R, C, side, side]` float32.

    torchvision's `MultiScaleRoIAlign` with `aligned`, the half-pixel shift that it lacks. `features[l]` is
    `[N, C, H_l, W_l]` at `strides[l]`; `rois[i]` `[R_i, 4]` xyxy in pixels of image i. Ratio 0 samples adaptively.
    """
    if isinstance(rois, Tensor):
        rows = rois
    else:
        owner = torch.cat([torch.full_like(part[:, :1], i) for i, part in enumerate(rois)])
        rows = torch.cat([owner, torch.cat(list(rois))], dim=1)
    boxes = rows[:, 1:]
    level_of = _levels(boxes, strides)
    parts, order = [], []
    for level, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        members = torch.where(level_of == level)[0]
        order.append(members)
        parts.append(roi_align(feature.float(), rows[members], side, 1 / stride, sampling_ratio, aligned))
    pooled = torch.cat(parts)[torch.argsort(torch.cat(order))]
    # The levels' parts add up to all RoIs: the ONNX exporter cannot know.
    return pooled.reshape(boxes.shape[0], pooled.shape[1], side, side)


def _levels(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Return the pyramid level `[R]`, an index into `strides`, for boxes `[R, 4]` (FPN, Eq. 1)."""
    first, last = strides[0].bit_length() - 1, strides[-1].bit_length() - 1
    sides = box_areas(boxes).sqrt()
    level = torch.floor(CANONICAL_LEVEL + torch.log2(sides / CANONICAL_SIDE_PX) + 1e-6)
    return level.clamp(first, last).to(torch.int64) - first
