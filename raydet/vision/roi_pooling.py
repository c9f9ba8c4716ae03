"""RoIAlign from a pyramid: each RoI from the level that fits its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align

from raydet.vision.geometry import box_areas

CANONICAL_SIDE_PX, CANONICAL_LEVEL = 224, 4  # an RoI of ImageNet's crop size is pooled from stride 2^4 (FPN, Eq. 1)
AT_A_TIME = 512  # RoIs, 26 MB of 256 channels: pooled values are tens of kilobytes each, copies of all are what peaks


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
    level_of = _levels(rows[:, 1:], strides)
    maps = [feature.float() for feature in features]
    trains = torch.is_grad_enabled() and any(feature.requires_grad for feature in maps)
    # Nobody learns from an exported network; and where algorithms must be deterministic, torchvision has its own way.
    if trains and not (torch.compiler.is_exporting() or torch.are_deterministic_algorithms_enabled()):
        found: Tensor = _Pooled.apply(rows, level_of, tuple(strides), (side, sampling_ratio, aligned), *maps)
        return found
    parts, order = [], []
    for level, (feature, stride) in enumerate(zip(maps, strides, strict=True)):
        members = torch.where(level_of == level)[0]
        order.append(members)
        parts.append(roi_align(feature, rows[members], side, 1 / stride, sampling_ratio, aligned))
    pooled = torch.cat(parts)[torch.argsort(torch.cat(order))]
    # The levels' parts add up to all RoIs: the ONNX exporter cannot know.
    return pooled.reshape(rows.shape[0], pooled.shape[1], side, side)


class _Pooled(torch.autograd.Function):
    """The same for training, with one copy of all pooled values where autograd's own way has three (by level, one
    behind the other, in the order of the RoIs), and two of their gradients; of six images one takes 154 MB."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        level_of: Tensor,
        strides: tuple[int, ...],
        how: tuple[int, int, bool],
        *maps: Tensor,
    ) -> Tensor:
        """Pool some RoIs at a time, each to its place."""
        side, ratio, aligned = how
        pooled = maps[0].new_empty(len(rows), maps[0].shape[1], side, side)
        for level, (feature, stride) in enumerate(zip(maps, strides, strict=True)):
            feature = feature.contiguous()  # roi_align would copy it at every call
            for members in torch.split(torch.where(level_of == level)[0], AT_A_TIME):
                pooled[members] = roi_align(feature, rows[members], side, 1 / stride, ratio, aligned)
        ctx.save_for_backward(rows, level_of)
        ctx.strides, ctx.how, ctx.shapes = strides, how, [feature.shape for feature in maps]
        return pooled

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Give each level the gradients of its RoIs."""
        rows, level_of = ctx.saved_tensors
        side, ratio, aligned = ctx.how
        found: list[Tensor | None] = []
        for level, (shape, stride) in enumerate(zip(ctx.shapes, ctx.strides, strict=True)):
            if not ctx.needs_input_grad[4 + level]:
                found.append(None)
                continue
            members = torch.where(level_of == level)[0]
            back = torch.ops.torchvision._roi_align_backward
            found.append(back(grad[members], rows[members], 1 / stride, side, side, *shape, ratio, aligned))
        return None, None, None, None, *found


def _levels(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Return the pyramid level `[R]`, an index into `strides`, for boxes `[R, 4]` (FPN, Eq. 1)."""
    first, last = strides[0].bit_length() - 1, strides[-1].bit_length() - 1
    sides = box_areas(boxes).sqrt()
    level = torch.floor(CANONICAL_LEVEL + torch.log2(sides / CANONICAL_SIDE_PX) + 1e-6)
    return level.clamp(first, last).to(torch.int64) - first
