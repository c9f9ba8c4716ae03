"""RoIAlign from a pyramid: each RoI from the level that fits its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align

from raydet.vision import roi_products
from raydet.vision.geometry import box_areas
from raydet.vision.roi_products import Bins

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
    if not torch.compiler.is_exporting():
        # A network that diverges moves boxes to NaN, which are of no level. Its losses say so, and are asked next.
        rows = rows.masked_fill(rows.isnan(), 0.0)
    level_of = _levels(rows[:, 1:], strides)
    maps, bins = [feature.float() for feature in features], Bins(side, sampling_ratio, aligned)
    if torch.compiler.is_exporting() or torch.are_deterministic_algorithms_enabled():
        # Nobody learns from an exported network; and torchvision has its own way where all must be deterministic.
        return _pooled_by_torchvision(maps, rows, level_of, strides, bins)
    if torch.is_grad_enabled() and any(feature.requires_grad for feature in maps):
        found: Tensor = _Pooled.apply(rows, rows_by_level(level_of, len(maps)), tuple(strides), bins, *maps)
        return found
    return _pooled(maps, rows, rows_by_level(level_of, len(maps)), strides, bins, trained=False)


def rows_by_level(level_of: Tensor, levels: int) -> tuple[Tensor, ...]:
    """Return which of the RoIs `[R]` are of each level, in order. A GPU is waited for once."""
    counts = (level_of == torch.arange(levels, device=level_of.device)[:, None]).sum(dim=1).tolist()
    return torch.split(level_of.argsort(stable=True), counts)


def _pooled_by_torchvision(
    maps: Sequence[Tensor], rows: Tensor, level_of: Tensor, strides: Sequence[int], bins: Bins
) -> Tensor:
    """Pool level by level, in operations that autograd and the ONNX exporter know."""
    parts, order = [], []
    for level, (feature, stride) in enumerate(zip(maps, strides, strict=True)):
        members = torch.where(level_of == level)[0]
        order.append(members)
        parts.append(_align(feature, rows[members], stride, bins))
    pooled = torch.cat(parts)[torch.argsort(torch.cat(order))]
    # The levels' parts add up to all RoIs: the ONNX exporter cannot know.
    return pooled.reshape(rows.shape[0], pooled.shape[1], bins.side, bins.side)


def _pooled(
    maps: Sequence[Tensor],
    rows: Tensor,
    by_level: Sequence[Tensor],
    strides: Sequence[int],
    bins: Bins,
    *,
    trained: bool,
) -> Tensor:
    """Pool some RoIs at a time, each to its place, the faster way; `by_level`: which of the rows each level serves."""
    pooled = maps[0].new_empty(len(rows), maps[0].shape[1], bins.side, bins.side)
    for feature, stride, members in zip(maps, strides, by_level, strict=True):
        if roi_products.is_fast(feature, trained=trained):
            pooled[members] = roi_products.pool(feature, rows[members], 1 / stride, bins)
            continue
        feature = feature.contiguous()  # roi_align would copy it at every call
        for some in torch.split(members, AT_A_TIME):
            pooled[some] = _align(feature, rows[some], stride, bins)
    return pooled


def _align(feature: Tensor, rows: Tensor, stride: int, bins: Bins) -> Tensor:
    found: Tensor = roi_align(feature, rows, bins.side, 1 / stride, bins.sampling_ratio, bins.aligned)
    return found


class _Pooled(torch.autograd.Function):
    """The same for training, with one copy of all pooled values where autograd's own way has three (by level, one
    behind the other, in the order of the RoIs), and two of their gradients; of six images one takes 154 MB."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, by_level: tuple[Tensor, ...], strides: tuple[int, ...], bins: Bins, *maps: Tensor
    ) -> Tensor:
        """Pool."""
        ctx.save_for_backward(rows, *by_level)
        ctx.strides, ctx.bins = strides, bins
        ctx.shapes = [feature.shape for feature in maps]
        ctx.are_products = [roi_products.is_fast(feature, trained=True) for feature in maps]
        return _pooled(maps, rows, by_level, strides, bins, trained=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Give each level the gradients of its RoIs."""
        rows, *by_level = ctx.saved_tensors
        found: list[Tensor | None] = []
        for level, (shape, stride) in enumerate(zip(ctx.shapes, ctx.strides, strict=True)):
            if not ctx.needs_input_grad[4 + level]:
                found.append(None)
                continue
            members = by_level[level]
            own, seen = grad[members], rows[members]
            if ctx.are_products[level]:
                found.append(roi_products.pool_back(own, shape, seen, 1 / stride, ctx.bins))
                continue
            side, ratio, aligned = ctx.bins
            back = torch.ops.torchvision._roi_align_backward
            found.append(back(own, seen, 1 / stride, side, side, *shape, ratio, aligned))
        return None, None, None, None, *found


def _levels(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Return the pyramid level `[R]`, an index into `strides`, for boxes `[R, 4]` (FPN, Eq. 1)."""
    first, last = strides[0].bit_length() - 1, strides[-1].bit_length() - 1
    sides = box_areas(boxes).sqrt()
    level = torch.floor(CANONICAL_LEVEL + torch.log2(sides / CANONICAL_SIDE_PX) + 1e-6)
    return level.clamp(first, last).to(torch.int64) - first
