"""How a head says where a box is: by its distance from a box that is known, in the units of that box (Girshick et al.,
CVPR 2014, appendix C).

    dx = (x - x_known) / w_known      dw = log(w / w_known)      for centre and width; y and height in the same way

torchvision's arithmetic to the bit, without the constants that it sends to the device at every call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_LOG_SCALE = math.log(1000 / 16)  # a box becomes at most so many times wider or higher


@dataclass(frozen=True, slots=True)
class BoxCoder:
    """Distances, multiplied by a weight for each of (x, y, w, h)."""

    weights: tuple[float, float, float, float]

    def encode(self, wanted: Tensor, known: Tensor) -> Tensor:
        """Return the deltas `[..., 4]` that move boxes `known` `[..., 4]` to `wanted` `[..., 4]`, both xyxy."""
        x, y, w, h = _centred(known)
        to_x, to_y, to_w, to_h = _centred(wanted)
        wx, wy, ww, wh = self.weights
        moves = (wx * (to_x - x) / w, wy * (to_y - y) / h, ww * torch.log(to_w / w), wh * torch.log(to_h / h))
        return torch.stack(moves, dim=-1)

    def decode(self, deltas: Tensor, known: Tensor) -> Tensor:
        """Return where deltas `[..., 4 k]` move boxes `[..., 4]` xyxy, each to k places: `[..., 4 k]`."""
        x, y, w, h = (each[..., None] for each in _centred(known.to(deltas.dtype)))
        wx, wy, ww, wh = self.weights
        to_x, to_y = deltas[..., 0::4] / wx * w + x, deltas[..., 1::4] / wy * h + y
        half_w = 0.5 * (torch.exp(torch.clamp(deltas[..., 2::4] / ww, max=MOST_LOG_SCALE)) * w)
        half_h = 0.5 * (torch.exp(torch.clamp(deltas[..., 3::4] / wh, max=MOST_LOG_SCALE)) * h)
        return torch.stack((to_x - half_w, to_y - half_h, to_x + half_w, to_y + half_h), dim=-1).flatten(-2)


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return centre, width and height of boxes `[..., 4]`."""
    w, h = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return boxes[..., 0] + 0.5 * w, boxes[..., 1] + 0.5 * h, w, h
