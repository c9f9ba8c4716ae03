"""Boxes and views. Boxes are float32 xyxy, half-open, in absolute pixels of the image they belong to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class View:
    """How one view of an image was made: `x_view = scale_x * x + shift_x`, and the same for y.

    Resizing, flipping and cropping are all of this form; a negative scale is a flip. The frame of `to_view`'s input
    is the original image (pixels as stored, after EXIF rotation), of its output the view.
    """

    scale_x: float
    shift_x: float
    scale_y: float
    shift_y: float
    height: int  # of the view, pixels
    width: int

    @staticmethod
    def identity(height: int, width: int) -> View:
        """Return the view that changes nothing."""
        return View(1.0, 0.0, 1.0, 0.0, height, width)

    def resized(self, height: int, width: int) -> View:
        """Return this view followed by a resize to `height` x `width` pixels."""
        fx, fy = width / self.width, height / self.height
        return View(self.scale_x * fx, self.shift_x * fx, self.scale_y * fy, self.shift_y * fy, height, width)

    def flipped(self, *, horizontal: bool = False, vertical: bool = False) -> View:
        """Return this view followed by mirror flips."""
        sx, tx, sy, ty = self.scale_x, self.shift_x, self.scale_y, self.shift_y
        if horizontal:
            sx, tx = -sx, self.width - tx
        if vertical:
            sy, ty = -sy, self.height - ty
        return View(sx, tx, sy, ty, self.height, self.width)

    def to_view(self, boxes: Tensor) -> Tensor:
        """Map boxes `[N, 4]` from original pixels to view pixels (not clipped)."""
        return _affine(boxes, self.scale_x, self.shift_x, self.scale_y, self.shift_y)

    def to_original(self, boxes: Tensor) -> Tensor:
        """Map boxes `[N, 4]` from view pixels back to original pixels (not clipped)."""
        return _affine(
            boxes,
            1 / self.scale_x,
            -self.shift_x / self.scale_x,
            1 / self.scale_y,
            -self.shift_y / self.scale_y,
        )


def carry(boxes: Tensor, view: View, min_side_px: float) -> tuple[Tensor, Tensor]:
    """Carry boxes `[N, 4]` from original pixels into a view and clip them there; boxes that vanish are dropped.

    Returns the boxes `[M, 4]` in view pixels and the mask `[N]` of those that are left.
    """
    inside = clip_boxes(view.to_view(boxes), view.height, view.width)
    usable = is_usable(inside, min_side_px)
    return inside[usable], usable


def _affine(boxes: Tensor, sx: float, tx: float, sy: float, ty: float) -> Tensor:
    # float64: a box that travels original -> view -> original must come back to within 1e-3 px at any image size.
    x = boxes[:, 0::2].double() * sx + tx
    y = boxes[:, 1::2].double() * sy + ty
    low_x, high_x = x.amin(dim=1), x.amax(dim=1)  # a flip swaps the corners
    low_y, high_y = y.amin(dim=1), y.amax(dim=1)
    return torch.stack([low_x, low_y, high_x, high_y], dim=1).to(boxes.dtype)


def clip_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Clip boxes `[N, 4]` to an image of `height` x `width` pixels."""
    x = boxes[:, 0::2].clamp(0, width)
    y = boxes[:, 1::2].clamp(0, height)
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)


def box_areas(boxes: Tensor) -> Tensor:
    """Return the areas `[N]` in square pixels; boxes with swapped corners count as 0."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    return sides[:, 0] * sides[:, 1]


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU `[N]` of row i of `a` `[N, 4]` with row i of `b` `[N, 4]`; 0 where both areas are 0."""
    low = torch.maximum(a[:, :2], b[:, :2])
    high = torch.minimum(a[:, 2:], b[:, 2:])
    sides = (high - low).clamp(min=0)
    inter = sides[:, 0] * sides[:, 1]
    union = box_areas(a) + box_areas(b) - inter
    return torch.where(union > 0, inter / union.clamp(min=torch.finfo(a.dtype).tiny), torch.zeros_like(inter))


def is_usable(boxes: Tensor, min_side_px: float) -> Tensor:
    """Return a mask `[N]` of boxes whose sides are both at least `min_side_px` (and finite)."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return (sides >= min_side_px).all(dim=1) & torch.isfinite(boxes).all(dim=1)
