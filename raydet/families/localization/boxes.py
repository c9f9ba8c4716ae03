"""Boxes as the localizer says them, and what is done with them on the image. Boxes are xyxy in shares of the view."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Encoding = Literal["xywh", "xyxy"]


def encode(boxes: Tensor, encoding: Encoding) -> Tensor:
    """Return what the localizer should say, `[B, 4]` in [0, 1], for boxes `[B, 4]` xyxy in shares of the view.

    `xywh`: the upper left corner and the size (PSOL).
    """
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1) if encoding == "xywh" else boxes


def decode(said: Tensor, encoding: Encoding) -> Tensor:
    """Return boxes `[B, 4]` xyxy in shares of the view, inside it, for what the localizer said."""
    corners = torch.cat([said[:, :2], said[:, :2] + said[:, 2:]], dim=1) if encoding == "xywh" else said
    return corners.clamp(0, 1)


def squared_distance(said: Tensor, wanted: Tensor, reduction: Literal["sum", "mean"]) -> Tensor:
    """Return the squared distance `[B]` of two encoded boxes `[B, 4]`: the sum over the four numbers (Eq. 2), or their
    mean, which is four times smaller."""
    squares = (said.float() - wanted.float()).square()
    return squares.sum(dim=1) if reduction == "sum" else squares.mean(dim=1)


def cross_entropies(logits: Tensor, masked: Tensor | None, classes: Tensor) -> Tensor:
    """Return the mean `[B]` of the cross-entropies of an image and of its masked copy (Eq. 1), logits `[B, N]` each;
    without a masked copy that of the image."""
    own = F.cross_entropy(logits.float(), classes, reduction="none")
    return own if masked is None else (own + F.cross_entropy(masked.float(), classes, reduction="none")) / 2


def in_pixels(boxes: Tensor, side: int) -> Tensor:
    """Return the whole pixels `[B, 4]` int64 xyxy of a square view that boxes touch: inside it, at least one pixel."""
    low = (boxes[:, :2] * side).floor().long().clamp(0, side - 1)
    high = torch.maximum((boxes[:, 2:] * side).ceil().long().clamp(max=side), low + 1)
    return torch.cat([low, high], dim=1)


def crops(pixels: Tensor, boxes: Tensor) -> Tensor:
    """Return the part of each image `[B, 3, S, S]` that its box `[B, 4]` (shares) touches, enlarged to `[B, 3, S, S]`.

    Bilinear, without keeping the aspect; equal to `F.interpolate` of the cut-out pixels. All images at once.
    """
    side = int(pixels.shape[-1])
    cut = in_pixels(boxes, side)
    place = (torch.arange(side, device=pixels.device, dtype=torch.float64) + 0.5) / side

    def along(low: Tensor, high: Tensor) -> Tensor:
        """Return grid_sample's coordinates `[B, S]`; at the border a pixel is repeated, its neighbour is not seen."""
        x = low[:, None] + place * (high - low)[:, None] - 0.5
        x = torch.minimum(torch.maximum(x, low[:, None].double()), high[:, None].double() - 1)
        return (2 * x + 1) / side - 1

    return sample(pixels, along(cut[:, 0], cut[:, 2]), along(cut[:, 1], cut[:, 3]))


def sample(pixels: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Read `pixels` `[B, 3, S, S]` at columns `x` and rows `y`, `[B, S]` each, in grid_sample's coordinates: -1 and 1
    are the outer edges; beyond them lies 0."""
    count, side = x.shape
    grid = torch.stack([x[:, None, :].expand(count, side, side), y[:, :, None].expand(count, side, side)], dim=-1)
    return F.grid_sample(pixels, grid.to(pixels.dtype), align_corners=False)


def is_visible(boxes: Tensor, side: int) -> Tensor:
    """Return which boxes `[B, 4]` (shares) are at least a pixel wide and high in a view of `side` pixels, `[B]`."""
    sides = (boxes[:, 2:] - boxes[:, :2]) * side
    return (sides >= 1).all(dim=1) & boxes.isfinite().all(dim=1)
