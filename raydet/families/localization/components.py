"""The box of a class activation map: tight around the largest connected part of what is above a share of its maximum.

All maps of a batch at once and on their device; two pixels are connected where they touch, corners included.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from raydet.families.localization.attention import Size, normalised


def largest_boxes(maps: Tensor, size: Size, threshold: float) -> Tensor:
    """Return boxes `[B, 4]` float32 xyxy, half-open, in pixels of images of `size`, for maps `[B, h, w]`.

    Maps are enlarged, and normalised by their own minimum and maximum; `>=` of the threshold counts (Zhou et al.). A
    flat map gives the whole image.
    """
    enlarged = F.interpolate(maps.float()[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    is_flat = maps.amax(dim=(1, 2)) <= maps.amin(dim=(1, 2))
    inside = (normalised(enlarged) >= threshold) | is_flat[:, None, None]
    parts = components(inside)
    kept = parts == largest(parts)[:, None, None]
    rows, columns = kept.any(dim=2).to(torch.uint8), kept.any(dim=1).to(torch.uint8)
    ends = [rows.shape[1] - rows.flip(1).argmax(dim=1), columns.shape[1] - columns.flip(1).argmax(dim=1)]
    return torch.stack([columns.argmax(dim=1), rows.argmax(dim=1), ends[1], ends[0]], dim=1).float()


def components(inside: Tensor) -> Tensor:
    """Return a number `[B, H, W]` int64 for each pixel of masks `[B, H, W]`: equal in a connected part, 0 outside.

    Every pixel starts with a number of its own; the highest spreads along runs of pixels until nothing changes.
    """
    count, height, width = inside.shape
    own = torch.arange(1, height * width + 1, device=inside.device).reshape(1, height, width)
    labels = torch.where(inside, own, 0)
    for _ in range(height * width):  # a spiral takes many turns, what a network sees takes a few
        before = labels
        for _ in range(2):
            labels = _spread(_spread(labels, inside).flip(2), inside.flip(2)).flip(2)
            labels, inside = labels.mT, inside.mT
        # Corners: the highest of the eight neighbours.
        nearby = F.max_pool2d(labels[:, None].double(), 3, stride=1, padding=1)[:, 0].long()
        labels = torch.where(inside, nearby, 0)
        if torch.equal(labels, before):
            break
    return labels


def largest(parts: Tensor) -> Tensor:
    """Return the number `[B]` of each mask's largest part, the highest one among equals; 0 where there is none."""
    count, places = len(parts), parts[0].numel() + 1
    base = torch.arange(count, device=parts.device)[:, None] * places
    sizes = torch.bincount((parts.flatten(1) + base).flatten(), minlength=count * places).reshape(count, places)
    sizes[:, 0] = 0
    return places - 1 - sizes.flip(1).argmax(dim=1)


def _spread(labels: Tensor, inside: Tensor) -> Tensor:
    """Give each pixel the highest number before it in its run along the last axis."""
    run = (~inside).cumsum(dim=2)  # the same all along a run, and higher in the next one
    step = labels.shape[1] * labels.shape[2] + 1
    highest = (run * step + labels).cummax(dim=2).values - run * step
    return torch.where(inside, highest, 0)
