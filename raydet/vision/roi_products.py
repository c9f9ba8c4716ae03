"""RoIAlign (He et al., Mask R-CNN, 2017) as matrix products, for maps of some thousand cells on a CPU.

Bilinear interpolation is a weighting of rows times one of columns, and so is a mean over a grid of samples; a bin is
empty where its row or its column lies outside the map. So what RoIAlign does to a map is

    pooled[r, p, q] = sum_y sum_x  rows[r, p, y]  columns[r, q, x]  map[y, x]

and its gradient the same the other way round. The sum over y is one product for all RoIs of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MOST_CELLS, MOST_CELLS_TRAINED = 1000, 2500  # of a map: the work grows with them, torchvision's does not
AT_A_TIME = 64  # RoIs of an image, 23 MB where a map has 50 columns of 256 channels


class Bins(NamedTuple):
    """How an RoI is looked at, as torchvision's `roi_align` has it."""

    side: int  # bins of an RoI, across and down
    sampling_ratio: int  # samples of a bin, across and down; 0: as many as it has cells, rounded up
    aligned: bool  # cells lie at half pixels


def is_fast(feature: Tensor, *, trained: bool) -> bool:
    """Whether it is faster than torchvision's for maps `[N, C, H, W]`: forward alone, or forward and backward."""
    cells = feature.shape[2] * feature.shape[3]
    return feature.device.type == "cpu" and cells <= (MOST_CELLS_TRAINED if trained else MOST_CELLS)


def pool(feature: Tensor, rows: Tensor, scale: float, bins: Bins) -> Tensor:
    """Return what RoIs `[R, 5]`, in front the number of the image, in pixels, see of maps `[N, C, H, W]`, of which
    `scale` cells are a pixel: `[R, C, side, side]`."""
    channels, height, width = feature.shape[1:]
    vertical, horizontal = roi_weights(rows, (height, width), scale, bins)
    pooled = feature.new_empty(len(rows), channels, bins.side, bins.side)
    with torch.autocast(feature.device.type, enabled=False):  # products are what it would take the precision from
        for image, members in _by_image(rows):
            cells = feature[image].permute(1, 2, 0).reshape(height, width * channels)
            bands = vertical[members].flatten(0, 1) @ cells  # [R side, W C]
            seen = horizontal[members][:, None] @ bands.view(len(members), bins.side, width, channels)
            pooled[members] = seen.permute(0, 3, 1, 2)
    return pooled


def pool_back(grad: Tensor, shape: Sequence[int], rows: Tensor, scale: float, bins: Bins) -> Tensor:
    """Return the gradient of maps of `shape` (N, C, H, W) for that of the pooled values, `[R, C, side, side]`."""
    number, channels, height, width = shape
    vertical, horizontal = roi_weights(rows, (height, width), scale, bins)
    found = grad.new_zeros(number, height, width * channels)
    with torch.autocast(grad.device.type, enabled=False):
        for image, members in _by_image(rows):
            bands = horizontal[members].transpose(1, 2)[:, None] @ grad[members].permute(0, 2, 3, 1)  # [R, side, W, C]
            found[image].addmm_(vertical[members].flatten(0, 1).t(), bands.reshape(-1, width * channels))
    return found.view(number, height, width, channels).permute(0, 3, 1, 2)


def roi_weights(rows: Tensor, size: tuple[int, int], scale: float, bins: Bins) -> tuple[Tensor, Tensor]:
    """Return how much each row `[R, side, H]` and column `[R, side, W]` of a map counts in each bin."""
    boxes = rows[:, 1:] * scale - (0.5 if bins.aligned else 0.0)
    starts, lengths = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    if not bins.aligned:
        lengths = lengths.clamp(min=1.0)
    height, width = size
    vertical = _axis_weights(starts[:, 1], lengths[:, 1], height, bins)
    return vertical, _axis_weights(starts[:, 0], lengths[:, 0], width, bins)


def _axis_weights(starts: Tensor, lengths: Tensor, size: int, bins: Bins) -> Tensor:
    """Return the weights `[R, side, size]` of cells, cell i at i, for bins from `starts` `[R]` on, in cells."""
    side, ratio = bins.side, bins.sampling_ratio
    number = torch.full_like(lengths, ratio) if ratio > 0 else torch.ceil(lengths / side).clamp(min=0)
    sample = torch.arange(max(1, int(number.max())) if len(number) else 1, device=starts.device)
    divisor = number.clamp(min=1)[:, None]
    count = (sample < number[:, None]) / divisor  # [R, samples]
    inside = (sample + 0.5) / divisor  # where in its bin
    number_of_bin = torch.arange(side, device=starts.device)[:, None]
    at = starts[:, None, None] + (number_of_bin + inside[:, None]) * (lengths / side)[:, None, None]
    count = count[:, None] * ((at >= -1) & (at <= size))  # [R, side, samples]
    at = at.clamp(0, size - 1)
    low = at.floor()
    share, first = at - low, low.to(torch.int64)
    weights = starts.new_zeros(len(starts), side, size)
    weights.scatter_add_(2, first, count * (1 - share))
    return weights.scatter_add_(2, (first + 1).clamp(max=size - 1), count * share)


def _by_image(rows: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield images with the places of some of their RoIs."""
    for image in sorted(set(rows[:, 0].tolist())):
        for members in torch.split(torch.where(rows[:, 0] == image)[0], AT_A_TIME):
            yield int(image), members
