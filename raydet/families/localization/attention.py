"""From attention maps to boxes: Algorithm 1 of LCHP, for a whole batch at once and on the batch's device.

A map is a share in [0, 1] after the mean over channels, enlarged to the image's size and normalised by its own minimum
and maximum; the box is the tight rectangle around *all* cells above the threshold, half-open, in pixels.

The enlarged maps are never made. Between two neighbouring cells the enlarged map is linear in each direction, so that
along a row, or over the whole map, its extremes lie at the pixels next to the cells' centres: 2 per cell instead of
17 (448 pixels, 26 cells) are looked at, and the rectangle is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from raydet.vision.device import to_device

Size = tuple[int, int]  # (height, width), pixels


@dataclass(frozen=True, slots=True)
class AttentionRule:
    """How a map becomes a box."""

    threshold: float  # of the normalised map (delta), strictly
    upsample: bool = True  # enlarge the map to the image before the threshold; else cells are scaled afterwards
    mask_out: bool = True  # look a second time, at the image without the first rectangle


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """The rectangles of a batch of maps."""

    boxes: Tensor  # [B, 4] float32 xyxy, half-open, in pixels of the image
    is_flat: Tensor  # [B] bool: the map was the same everywhere, and the rectangle is the whole image


@dataclass(frozen=True, slots=True, eq=False)
class AttentionBoxes:
    """What Algorithm 1 makes of a batch of images."""

    boxes: Tensor  # [B, 4] float32 xyxy, pixels: the rectangle around both regions (y_r)
    first: Tensor  # [B, 4] of the image (L_r)
    second: Tensor  # [B, 4] of the masked image (L_m); equal to `first` where that shows nothing, or is not looked at
    masked: Tensor  # [B, 3, H, W] the image without its first region (I_m)
    is_flat: Tensor  # [B] bool: no attention at all, so that the box is the whole image
    attention: Tensor  # [B, h, w] of the image, as the network has it
    masked_attention: Tensor | None  # [B, h, w] of the masked image, where it was looked at


def pseudo_boxes(
    attention_of: Callable[[Tensor], Tensor], pixels: Tensor, rule: AttentionRule, fill: Tensor
) -> AttentionBoxes:
    """Run Algorithm 1 on `pixels` `[B, 3, H, W]`; no gradient flows.

    `attention_of` gives the mean over channels `[B, h, w]` of an image's maps; `fill` `[3, 1, 1]` is what a masked
    pixel becomes.
    """
    size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
    with torch.no_grad():
        attention = attention_of(pixels)
        found = regions(attention, size, rule)  # steps 1 to 4
        masked = without(pixels, found.boxes, fill)  # 5
        if not rule.mask_out:
            return AttentionBoxes(found.boxes, found.boxes, found.boxes, masked, found.is_flat, attention, None)
        masked_attention = attention_of(masked)
        again = regions(masked_attention, size, rule)  # 6
        # A masked image that shows nothing adds nothing; the whole image would be a guess.
        second = torch.where(again.is_flat[:, None], found.boxes, again.boxes)
        both = around(found.boxes, second)  # 7
        return AttentionBoxes(both, found.boxes, second, masked, found.is_flat, attention, masked_attention)


def regions(attention: Tensor, size: Size, rule: AttentionRule) -> Regions:
    """Return the rectangles around what is above the threshold in maps `[B, h, w]` of images of `size`.

    A map without any difference has no region: the whole image, and it says so.
    """
    attention = attention.float()  # half precision would move the threshold
    is_flat = attention.amax(dim=(1, 2)) <= attention.amin(dim=(1, 2))  # of the cells: enlarging rounds
    if rule.upsample:
        rows, columns = (
            _interpolation(*sides, attention.device) for sides in zip(attention.shape[1:], size, strict=True)
        )
        by_row = (columns.ends @ attention.mT) @ rows.every.T  # [B, ~2w, H]: every row, at the columns that matter
        by_column = (rows.ends @ attention) @ columns.every.T  # [B, ~2h, W]
        lowest = (rows.ends @ (attention @ columns.ends.T)).amin(dim=(1, 2))
    else:
        by_row, by_column = attention.mT, attention
        lowest = attention.amin(dim=(1, 2))
    of_rows, of_columns = by_row.amax(dim=1), by_column.amax(dim=1)  # the largest value of each
    low, high = lowest[:, None], torch.maximum(of_rows.amax(dim=1), of_columns.amax(dim=1))[:, None]
    span = torch.where(high > low, high - low, torch.ones_like(high))
    of_rows, of_columns = (of_rows - low) / span, (of_columns - low) / span
    top, bottom = _first_and_end(of_rows > rule.threshold)
    left, right = _first_and_end(of_columns > rule.threshold)
    boxes = torch.stack([left, top, right, bottom], dim=1).float()
    if not rule.upsample:
        boxes = boxes * _per_cell(attention, size)
    whole = to_device(torch.tensor([0.0, 0.0, size[1], size[0]]), boxes.device)
    return Regions(torch.where(is_flat[:, None], whole, boxes), is_flat)


def without(pixels: Tensor, boxes: Tensor, fill: Tensor) -> Tensor:
    """Return `pixels` `[B, 3, H, W]` with `fill` `[3, 1, 1]` in every pixel whose centre lies in its image's box."""
    height, width = pixels.shape[-2:]
    x = torch.arange(width, device=pixels.device) + 0.5
    y = torch.arange(height, device=pixels.device) + 0.5
    in_columns = (x >= boxes[:, 0, None]) & (x < boxes[:, 2, None])
    in_rows = (y >= boxes[:, 1, None]) & (y < boxes[:, 3, None])
    hidden = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    return torch.where(hidden, fill.to(pixels), pixels)


def around(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the smallest boxes `[B, 4]` around both of each pair."""
    low = torch.minimum(boxes[:, :2], others[:, :2])
    return torch.cat([low, torch.maximum(boxes[:, 2:], others[:, 2:])], dim=1)


def normalised(attention: Tensor) -> Tensor:
    """Return maps `[B, h, w]` between their own minimum and maximum, in [0, 1]; 0 where they are flat. For pictures."""
    low, high = attention.amin(dim=(1, 2), keepdim=True), attention.amax(dim=(1, 2), keepdim=True)
    return (attention - low) / (high - low).clamp(min=torch.finfo(attention.dtype).tiny)


@dataclass(frozen=True, slots=True, eq=False)
class _Interpolation:
    """Bilinear interpolation along one side, as matrices: `every @ cells` is the enlarged line."""

    every: Tensor  # [pixels, cells]
    ends: Tensor  # [about 2 * cells, cells]: the pixels first and last between two neighbouring centres of cells


@lru_cache(maxsize=16)
def _interpolation(cells: int, pixels: int, device: torch.device) -> _Interpolation:
    """Weigh cells as `F.interpolate(mode="bilinear", align_corners=False)` does."""
    place = ((torch.arange(pixels, dtype=torch.float64) + 0.5) * (cells / pixels) - 0.5).clamp(0, cells - 1)
    left = place.floor().long()
    share = (place - left).float()
    every = torch.zeros(pixels, cells)
    every[torch.arange(pixels), left] = 1 - share
    every[torch.arange(pixels), (left + 1).clamp(max=cells - 1)] += share
    changes = left[1:] != left[:-1]
    is_end = torch.ones(pixels, dtype=torch.bool)
    is_end[1:-1] = changes[1:] | changes[:-1]
    return _Interpolation(every.to(device), every[is_end].to(device))


def _first_and_end(is_in: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first true place and the one behind the last, `[B]` each, of rows `[B, N]`."""
    count = is_in.shape[1]
    marked = is_in.to(torch.uint8)
    return marked.argmax(dim=1), count - marked.flip(1).argmax(dim=1)


def _per_cell(attention: Tensor, size: Size) -> Tensor:
    """Return how many pixels a cell is wide and high, as factors `[4]` of a box of cells."""
    height, width = attention.shape[1:]
    return torch.tensor([size[1] / width, size[0] / height] * 2, device=attention.device)
