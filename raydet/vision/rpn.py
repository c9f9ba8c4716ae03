"""Region proposals: torchvision's head and anchors, with the loss and the proposal step opened.

Its state-dict keys are those of torchvision's `RegionProposalNetwork`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.rpn import AnchorGenerator, RPNHead
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from raydet.config.detector import ModelConfig
from raydet.vision import losses
from raydet.vision.matching import match, sample

MIN_SIDE_PX = 1e-3  # torchvision's
_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))


@dataclass(frozen=True, slots=True, eq=False)
class AnchorScores:
    """What the head says about every anchor of every image."""

    objectness: Tensor  # [N, A] float32, logits
    deltas: Tensor  # [N, A, 4] float32
    anchors: Tensor  # [A, 4] float32 xyxy, pixels of the frame, the same for all images
    level_sizes: tuple[int, ...]  # anchors per pyramid level; they sum to A


class Rpn(nn.Module):
    """Scores anchors."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        ratios = (config.anchor_ratios,) * len(config.anchor_sizes)
        self.anchor_generator = AnchorGenerator(config.anchor_sizes, ratios)
        self.head = RPNHead(config.fpn_channels, self.anchor_generator.num_anchors_per_location()[0])
        self.matcher = Matcher(config.rpn_fg_iou, config.rpn_bg_iou, allow_low_quality_matches=True)

    def forward(self, features: Mapping[str, Tensor]) -> AnchorScores:
        """Score the anchors of a pyramid's maps."""
        objectness, deltas = self.head(list(features.values()))
        grids = [tuple(level.shape[-2:]) for level in objectness]
        by_level = self._anchors(grids, objectness[0].device)
        # [N, a, h, w] -> [N, h * w * a]: the order of the anchors
        scores = [level.permute(0, 2, 3, 1).flatten(1) for level in objectness]
        moves = [level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, 4) for level in deltas]
        return AnchorScores(
            torch.cat(scores, dim=1).float(),
            torch.cat(moves, dim=1).float(),
            torch.cat(by_level),
            tuple(level.shape[0] for level in by_level),
        )

    def _anchors(self, grids: Sequence[tuple[int, ...]], device: torch.device) -> list[Tensor]:
        # The generator's forward would make anchors in the features' precision; pixels need float32 under autocast. It
        # would also divide the frame by the grid: of 672 pixels level 64 has 11 cells, which would lie 61 apart.
        self.anchor_generator.set_cell_anchors(torch.float32, device)
        strides = [[torch.tensor(stride, device=device)] * 2 for stride in self.config.fpn_strides]
        anchors: list[Tensor] = self.anchor_generator.grid_anchors(grids, strides)
        return anchors


@torch.no_grad()
def proposals(
    scores: AnchorScores, sizes: Sequence[tuple[int, int]], *, pre_nms: int, post_nms: int, nms_iou: float
) -> list[Tensor]:
    """Return each image's proposals `[P, 4]` xyxy, frame pixels, clipped to its (height, width), best first.

    The `pre_nms` best of each level go into NMS (within levels), the `post_nms` best of all levels come out.
    """
    best, levels, offset = [], [], 0
    for level, size in enumerate(scores.level_sizes):
        top = scores.objectness[:, offset : offset + size].topk(min(pre_nms, size), dim=1).indices
        best.append(top + offset)
        levels.append(torch.full((top.shape[1],), level, device=top.device))
        offset += size
    chosen, level_of = torch.cat(best, dim=1), torch.cat(levels)
    found = []
    for i, image_size in enumerate(sizes):
        rows = chosen[i]
        boxes = _coder.decode_single(scores.deltas[i, rows], scores.anchors[rows])
        boxes = clip_boxes_to_image(boxes, image_size)
        large = remove_small_boxes(boxes, MIN_SIDE_PX)
        # Ordered by logit where torchvision orders by sigmoid(logit): the same order, without its ties near 1.
        kept = batched_nms(boxes[large], scores.objectness[i, rows[large]], level_of[large], nms_iou)
        found.append(boxes[large][kept[:post_nms]])
    return found


def rpn_losses(
    scores: AnchorScores,
    truth: Sequence[Tensor],
    rngs: Sequence[torch.Generator],
    *,
    matcher: Matcher,
    config: ModelConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return per-image sums `[N]` of the objectness loss and the box loss, for true boxes `truth[i]` `[G, 4]`, and how
    many of the sampled anchors are foreground, `[N]` int64.

    Binary cross-entropy over the sampled anchors, box distance over the foreground ones. Both are meant to be divided
    by `rpn_batch` per image, even where fewer anchors exist.
    """
    foreground, background, wanted = [], [], []
    for boxes, rng in zip(truth, rngs, strict=True):
        matched = match(scores.anchors, boxes, matcher)
        positive, negative = sample(matched, config.rpn_batch, config.rpn_positive_fraction, rng)
        foreground.append(positive)
        background.append(negative)
        wanted.append(_coder.encode_single(boxes[matched[positive]], scores.anchors[positive]))
    num_fg, num_bg = [len(rows) for rows in foreground], [len(rows) for rows in background]
    fg, bg = _locate(foreground), _locate(background)
    missed = losses.binary_cross_entropy(scores.objectness[fg], torch.ones_like(fg[1]))
    mistaken = losses.binary_cross_entropy(scores.objectness[bg], torch.zeros_like(bg[1]))
    objectness = losses.sum_per_image(missed, num_fg) + losses.sum_per_image(mistaken, num_bg)
    distance = losses.box_regression(scores.deltas[fg], torch.cat(wanted), config.box_loss)
    return objectness, losses.sum_per_image(distance, num_fg), torch.tensor(num_fg)


def _locate(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return (image, anchor) index pairs for the anchors of each image."""
    images = [torch.full_like(part, i) for i, part in enumerate(rows)]
    return torch.cat(images), torch.cat(list(rows))
