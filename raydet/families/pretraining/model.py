"""The networks that are pre-trained. Their parameters have the names that `raydet.vision.detector.Detector` gives them
(`backbone.*`, `rpn.*`, `roi_heads.box_head.*`), so that a detector starts from them by name."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from raydet.families.pretraining.config import PretrainingModelConfig
from raydet.vision.backbones import build_backbone
from raydet.vision.device import to_device
from raydet.vision.ema import average_into
from raydet.vision.geometry import box_areas
from raydet.vision.images import imagenet_figures
from raydet.vision.norms import projection_norm, synced
from raydet.vision.roi import build_box_head
from raydet.vision.roi_pooling import rows_by_level
from raydet.vision.rpn import AnchorScores, Rpn

TARGET, RPN = "target.", "rpn."
PARTS = ("backbone.", "roi_heads.", RPN)
"""What a detector has too."""


class BoxHeads(nn.Module):
    """A detector's `roi_heads` without the predictors."""

    def __init__(self, config: PretrainingModelConfig) -> None:
        super().__init__()
        self.box_head = build_box_head(config)


class Branch(nn.Module):
    """Backbone f, box head g and projector p: from a box of a view to `model.projector_dim` numbers."""

    def __init__(
        self, config: PretrainingModelConfig, backbone: nn.Module, roi_heads: BoxHeads, projector: nn.Module
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.roi_heads, self.projector = backbone, roi_heads, projector

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Return the pyramid's maps `[B, C, h, w]`, finest first, of views `[B, 3, S, S]` normalised as ImageNet."""
        maps: dict[str, Tensor] = self.backbone(pixels)
        return list(maps.values())

    def pooled(self, features: Sequence[Tensor], rois: Tensor, side: int) -> Tensor:
        """Return RoIAlign `[R, C, 7, 7]` of `rois` `[R, 5]` (image, then xyxy in pixels of views of `side`)."""
        return pool_by_size(features, rois, side, self.config)

    def project(self, features: Sequence[Tensor], rois: Tensor, side: int) -> Tensor:
        """Return p(g(RoIAlign(f, b))) `[R, D]`, not normalised."""
        found: Tensor = self.projector(self.roi_heads.box_head(self.pooled(features, rois, side)))
        return found


class PretrainingModel(Branch):
    """The online branch, with a predictor q, region proposals, and the target: a slow copy of f, g and p."""

    def __init__(self, config: PretrainingModelConfig, *, has_rpn: bool, trains_all: bool = True) -> None:
        """`trains_all`: whether more than the region proposals is trained; else the rest stays in evaluation mode.

        Raises CheckpointError where `config.weights` cannot be used.
        """
        super().__init__(config, build_backbone(config), BoxHeads(config), two_layers(config.box_head_dim, config))
        self.trains_all = trains_all
        self.predictor = two_layers(config.projector_dim, config)
        self.rpn = Rpn(config) if has_rpn else None
        if config.sync_norms:
            synced(self)
        self.to(memory_format=torch.channels_last)
        parts = copy.deepcopy((self.backbone, self.roi_heads, self.projector))
        self.target = Branch(config, *parts).requires_grad_(False)

    def update_target(self, keep: float) -> None:
        """Do `xi <- keep * xi + (1 - keep) * theta` for parameters; the statistics of norms are the target's own."""
        if keep < 1:
            own = {name for name, _ in self.target.named_buffers()}
            average_into(self.target, self, keep=keep, without=own)

    def score_anchors(self, features: Sequence[Tensor]) -> AnchorScores:
        """Run the region proposals' head on a pyramid's maps."""
        assert self.rpn is not None
        scores: AnchorScores = self.rpn({str(level): each for level, each in enumerate(features)})
        return scores

    def train(self, mode: bool = True) -> PretrainingModel:
        """Set the mode; what is not trained stays in evaluation mode, so that no statistic of it moves."""
        super().train(mode)
        if not self.trains_all:
            for name, part in self.named_children():
                part.train(mode and f"{name}." == RPN)
        return self

    def exported(self, branch: str) -> dict[str, Tensor]:
        """Return the tensors that a detector has too, by its names; backbone and box head of `online` or `target`."""
        state = self.state_dict()
        if branch == "target":
            own = {name.removeprefix(TARGET): value for name, value in state.items() if name.startswith(TARGET)}
            state |= own
        return {name: value for name, value in state.items() if name.startswith(PARTS)}


def two_layers(inputs: int, config: PretrainingModelConfig) -> nn.Sequential:
    """Return a network `[R, inputs]` -> `[R, projector_dim]` with one hidden layer, normalised: BYOL's."""
    hidden = config.projector_hidden
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        projection_norm(config.fpn_norm, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, config.projector_dim),
    )


def pool_by_size(features: Sequence[Tensor], rois: Tensor, side: int, config: PretrainingModelConfig) -> Tensor:
    """RoIAlign each of `rois` `[R, 5]` from the level that its size in this view is assigned to.

    Boxes are scaled by the size of the map, not by the stride: a view of 112 pixels has a coarsest map of 4 x 4, where
    the stride says 3.5. A level without boxes still is on the graph.
    """
    level_of = levels(rois[:, 1:], config.level_bounds)
    parts, order = [], []
    for maps, members in zip(features, rows_by_level(level_of, len(features)), strict=True):
        order.append(members)
        scale = maps.shape[-1] / side
        own = rois[members]
        parts.append(
            roi_align(
                maps.float(), own, config.roi_pool_size, scale, config.roi_sampling_ratio, config.roi_align_aligned
            )
        )
    return torch.cat(parts)[torch.argsort(torch.cat(order))]


def levels(boxes: Tensor, bounds: Sequence[float]) -> Tensor:
    """Return the pyramid level `[R]` of boxes `[R, 4]`: the first whose bound the side sqrt(w h) does not exceed."""
    sides = box_areas(boxes.double()).sqrt()
    # float64 and a bound from above: a box of exactly 48 x 48 pixels belongs to the finest level
    found = torch.zeros_like(sides, dtype=torch.int64)
    for bound in bounds:
        found += sides > bound
    return found


def normalised(pixels: Tensor, device: torch.device) -> Tensor:
    """Return views `[B, 3, S, S]` uint8 as a network wants them: float32, normalised as ImageNet, channels last."""
    mean, std = imagenet_figures(device)
    shown = (to_device(pixels, device).float() / 255 - mean) / std
    return shown.contiguous(memory_format=torch.channels_last)


def rois_of(boxes: Tensor) -> Tensor:
    """Return boxes `[B, K, 4]` as rows `[B * K, 5]` with the number of their image in front."""
    number, each = boxes.shape[:2]
    owner = torch.arange(number, device=boxes.device, dtype=boxes.dtype).repeat_interleave(each)
    return torch.cat([owner[:, None], boxes.reshape(-1, 4)], dim=1)
