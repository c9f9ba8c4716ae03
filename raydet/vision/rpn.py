"""Region proposals: torchvision's head and anchors, with the loss and the proposal step opened.

Its state-dict keys are those of torchvision's `RegionProposalNetwork`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import AnchorGenerator, RPNHead

from raydet.config.detector import ModelConfig
from raydet.vision import losses
from raydet.vision.box_code import BoxCoder
from raydet.vision.device import to_device
from raydet.vision.geometry import clipped_within, limits_of
from raydet.vision.matching import Matcher, match, sample
from raydet.vision.nms import nms_within

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
        self.matcher = Matcher(config.rpn_fg_iou, config.rpn_bg_iou, gives_each_its_best=True)

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
        """Return the anchors `[h * w * a, 4]` of each level's cells, row by row."""
        # The generator's forward would make anchors in the features' precision; pixels need float32 under autocast. It
        # would also divide the frame by the grid: of 672 pixels level 64 has 11 cells, which would lie 61 apart.
        self.anchor_generator.set_cell_anchors(torch.float32, device)
        found = []
        for (height, width), stride, cell in zip(
            grids, self.config.fpn_strides, self.anchor_generator.cell_anchors, strict=True
        ):
            x, y = torch.arange(width, device=device) * stride, torch.arange(height, device=device) * stride
            y, x = torch.meshgrid(y, x, indexing="ij")
            corners = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
            found.append((corners + cell).reshape(-1, 4))
        return found


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
    rows, level_of = torch.cat(best, dim=1), torch.cat(levels)
    boxes = _coder.decode(scores.deltas.gather(1, rows[..., None].expand(-1, -1, 4)), scores.anchors[rows])
    boxes = clipped_within(boxes, limits_of(sizes, boxes.device)[:, None])
    large = (boxes[..., 2:] - boxes[..., :2] >= MIN_SIDE_PX).all(dim=2)
    order = large.logical_not().to(torch.uint8).argsort(dim=1, stable=True)  # those with an inside first, as they were
    found = []
    for i, count in enumerate(large.sum(dim=1).tolist()):
        kept_rows = order[i, :count]
        own = boxes[i, kept_rows]
        # Ordered by logit where torchvision orders by sigmoid(logit): the same order, without its ties near 1.
        kept = nms_within(own, scores.objectness[i, rows[i, kept_rows]], level_of[kept_rows], nms_iou)
        found.append(own[kept[:post_nms]])
    return found


def rpn_losses(
    scores: AnchorScores,
    truth: Sequence[Tensor],
    rngs: Sequence[torch.Generator],
    *,
    matcher: Matcher,
    config: ModelConfig,
    frames: Sequence[tuple[int, int]] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return per-image sums `[N]` of the objectness loss and the box loss, for true boxes `truth[i]` `[G, 4]`, and how
    many of the sampled anchors are foreground, `[N]` int64.

    Binary cross-entropy over the sampled anchors, box distance over the foreground ones. Both are meant to be divided
    by `rpn_batch` per image, even where fewer anchors exist. `frames`: the (height, width) of the frame that each image
    needs by itself; anchors beyond it are there because of its neighbours, and are not drawn. None: there are none.
    """
    matched = [match(scores.anchors, boxes, matcher) for boxes in truth]
    own = None if frames is None else _own_anchors(scores, frames, config)
    drawn = sample(matched, config.rpn_batch, config.rpn_positive_fraction, rngs, own)
    foreground, background = [rows for rows, _ in drawn], [rows for _, rows in drawn]
    wanted = [
        _coder.encode(boxes[owner[rows]], scores.anchors[rows])
        for boxes, owner, rows in zip(truth, matched, foreground, strict=True)
    ]
    num_fg, num_bg = [len(rows) for rows in foreground], [len(rows) for rows in background]
    fg, bg = _locate(foreground), _locate(background)
    missed = losses.binary_cross_entropy(scores.objectness[fg], torch.ones_like(fg[1]))
    mistaken = losses.binary_cross_entropy(scores.objectness[bg], torch.zeros_like(bg[1]))
    objectness = losses.sum_per_image(missed, num_fg) + losses.sum_per_image(mistaken, num_bg)
    distance = losses.box_regression(scores.deltas[fg], torch.cat(wanted), config.box_loss)
    return objectness, losses.sum_per_image(distance, num_fg), torch.tensor(num_fg)


def _own_anchors(
    scores: AnchorScores, frames: Sequence[tuple[int, int]], config: ModelConfig
) -> tuple[Tensor, list[int]] | None:
    """Return which anchors `[N, A]` stand in each image's own frame, and how many; None where all do.

    The number is computed from the sizes: counting on a GPU would be waited for.
    """
    each_cell = len(config.anchor_ratios)
    numbers = [
        sum(
            -(-height // stride) * -(-width // stride) * each_cell * len(sizes)
            for stride, sizes in zip(config.fpn_strides, config.anchor_sizes, strict=True)
        )
        for height, width in frames
    ]
    if all(number == len(scores.anchors) for number in numbers):
        return None
    centers = (scores.anchors[:, :2] + scores.anchors[:, 2:]) / 2  # the corners of the cells, exactly
    ends = to_device(torch.tensor([(width, height) for height, width in frames]), centers.device)
    return (centers < ends[:, None]).all(dim=2), numbers


def _locate(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return (image, anchor) index pairs for the anchors of each image."""
    images = [torch.full_like(part, i) for i, part in enumerate(rows)]
    return torch.cat(images), torch.cat(list(rows))
