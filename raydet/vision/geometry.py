"""Boxes and views. Boxes are float32 xyxy, half-open, in absolute pixels of the image they belong to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raydet.vision.device import to_device

Matrix = tuple[float, float, float, float, float, float]
"""(a, b, tx, c, d, ty): `x_new = a * x + b * y + tx` and `y_new = c * x + d * y + ty`."""

_SINGULAR = 1e-12  # of the determinant, beside the products that it is the difference of


@dataclass(frozen=True, slots=True)
class View:
    """How one view of an image was made: an affine map of coordinates, and the size of what came out.

    The frame of `to_view`'s input is the original image (pixels as stored, after EXIF rotation), of its output the
    view. Coordinates are continuous: pixel (row 0, column 0) covers 0..1 x 0..1 and has its centre at (0.5, 0.5). Each
    of the methods that return a view appends one operation, in the frame that this view ends in.
    """

    matrix: Matrix
    height: int  # of the view, pixels
    width: int

    def __post_init__(self) -> None:
        """Raise ValueError for a map that has no way back: no box could return from its view."""
        a, b, _, c, d, _ = self.matrix
        is_flat = abs(a * d - b * c) <= _SINGULAR * (abs(a * d) + abs(b * c))
        if is_flat or not all(math.isfinite(value) for value in self.matrix):
            raise ValueError(f"view matrix {self.matrix} is singular or not finite: it has no inverse")

    @staticmethod
    def identity(height: int, width: int) -> View:
        """Return the view that changes nothing."""
        return View((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), height, width)

    @property
    def is_axis_aligned(self) -> bool:
        """Whether it only scales, flips and shifts: rectangles stay rectangles, without slack around them."""
        return self.matrix[1] == 0 and self.matrix[3] == 0

    def then(self, other: View) -> View:
        """Return this view followed by `other`, whose original is this view."""
        a, b, tx, c, d, ty = self.matrix
        e, f, ux, g, h, uy = other.matrix
        # In this order of operations, zeros change no bit: scales and shifts come out as if x and y stood alone.
        matrix = (
            *(e * a + f * c, e * b + f * d, e * tx + f * ty + ux),
            *(g * a + h * c, g * b + h * d, g * tx + h * ty + uy),
        )
        return View(matrix, other.height, other.width)

    def inverted(self, height: int, width: int) -> View:
        """Return the way back to the original, which had `height` x `width` pixels."""
        return View(inverse(self.matrix), height, width)

    def resized(self, height: int, width: int) -> View:
        """Return this view followed by a resize to `height` x `width` pixels."""
        return self.then(View((width / self.width, 0.0, 0.0, 0.0, height / self.height, 0.0), height, width))

    def flipped(self, *, horizontal: bool = False, vertical: bool = False) -> View:
        """Return this view followed by mirror flips."""
        sx, tx = (-1.0, float(self.width)) if horizontal else (1.0, 0.0)
        sy, ty = (-1.0, float(self.height)) if vertical else (1.0, 0.0)
        return self._followed((sx, 0.0, tx, 0.0, sy, ty))

    def shifted(self, x: float = 0.0, y: float = 0.0) -> View:
        """Return this view followed by a shift, in its pixels, to the right and down; the frame stays.

        Where a method gives shares of the image: `view.shifted(0.1 * view.width, -0.1 * view.height)`.
        """
        return self._followed((1.0, 0.0, x, 0.0, 1.0, y))

    def rotated(self, degrees: float) -> View:
        """Return this view followed by a clockwise turn about the centre of its frame, which stays.

        Multiples of 90 degrees are exact.
        """
        quarter = {0.0: (1.0, 0.0), 90.0: (0.0, 1.0), 180.0: (-1.0, 0.0), 270.0: (0.0, -1.0)}.get(degrees % 360)
        cos, sin = quarter or (math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
        return self._about_centre(cos, -sin, sin, cos)

    def sheared(self, x: float = 0.0, y: float = 0.0) -> View:
        """Return this view followed by a shear along x, then one along y, about the centre of its frame, which stays.

        `x` and `y` are factors (the tangent of an angle): with x = 0.5 a point two pixels below the centre moves one
        pixel to the right.
        """
        return self._about_centre(1.0, x, 0.0, 1.0)._about_centre(1.0, 0.0, y, 1.0)

    def cropped(self, top: int, left: int, height: int, width: int) -> View:
        """Return this view followed by a crop to `height` x `width` pixels from (`top`, `left`) on.

        What lies outside is padding: a negative `top` or `left`, or a size beyond the frame, pads.
        """
        return self.then(View((1.0, 0.0, -float(left), 0.0, 1.0, -float(top)), height, width))

    def to_view(self, boxes: Tensor) -> Tensor:
        """Map boxes `[N, 4]` from original pixels to view pixels (not clipped).

        A turned or sheared box becomes the smallest upright box around its four corners.
        """
        if self.is_axis_aligned:
            a, _, tx, _, d, ty = self.matrix
            return _scaled(boxes, a, tx, d, ty)
        return _warped(boxes, self.matrix)

    def to_original(self, boxes: Tensor) -> Tensor:
        """Map boxes `[N, 4]` from view pixels back to original pixels (not clipped).

        Like `to_view`: where boxes were turned or sheared, each way puts an upright box around four corners, so that
        a box that goes there and back grows. Between two views, map once: `a.inverted(h, w).then(b).to_view(boxes)`.
        """
        if self.is_axis_aligned:
            a, _, tx, _, d, ty = self.matrix
            return _scaled(boxes, 1 / a, -tx / a, 1 / d, -ty / d)
        return _warped(boxes, inverse(self.matrix))

    def _followed(self, matrix: Matrix) -> View:
        return self.then(View(matrix, self.height, self.width))

    def _about_centre(self, a: float, b: float, c: float, d: float) -> View:
        x, y = self.width / 2, self.height / 2
        return self._followed((a, b, x - a * x - b * y, c, d, y - c * x - d * y))


def boxes_into_view(boxes: Tensor, view: View, min_side_px: float) -> tuple[Tensor, Tensor]:
    """Map boxes `[N, 4]` from original pixels into a view and clip them there; boxes that vanish are dropped.

    Returns the boxes `[M, 4]` in view pixels and the mask `[N]` of those that are left.
    """
    inside = clip_boxes(view.to_view(boxes), view.height, view.width)
    usable = is_usable(inside, min_side_px)
    return inside[usable], usable


def warp(pixels: Tensor, view: View, fill: int | tuple[int, int, int] = 0) -> Tensor:
    """Return the pixels of a view, `[3, view.height, view.width]` uint8, made from the original's `[3, H, W]` uint8.

    Each pixel of the view is read between the four nearest of the original (bilinear); beyond the original lies the
    colour `fill`, 0..255. Nothing is smoothed first: resize an image that is to become much smaller before, and warp
    by the rest of the view. Deterministic on the CPU.
    """
    a, b, tx, c, d, ty = inverse(view.matrix)
    x = torch.arange(view.width, dtype=torch.float64) + 0.5
    y = (torch.arange(view.height, dtype=torch.float64) + 0.5)[:, None]
    height, width = pixels.shape[1:]
    # grid_sample's -1 and 1 are the outer edges of the first and the last pixel. Only rows and columns are float64.
    grid = torch.empty(1, view.height, view.width, 2)
    torch.add((2 * (a * x + tx) / width - 1).float(), (2 * b * y / width).float(), out=grid[0, :, :, 0])
    torch.add((2 * (c * x + ty) / height - 1).float(), (2 * d * y / height).float(), out=grid[0, :, :, 1])
    colour = torch.tensor(fill, dtype=torch.float32).expand(3)[:, None, None]
    # What is outside counts as 0: as a difference from `fill`, that is `fill`.
    found = functional.grid_sample(pixels.float().sub_(colour)[None], grid, align_corners=False)[0]
    return found.add_(colour).round_().clamp_(0, 255).to(torch.uint8)


def inverse(matrix: Matrix) -> Matrix:
    """Return the way back of a view's matrix."""
    a, b, tx, c, d, ty = matrix
    size = a * d - b * c
    a, b, c, d = d / size, -b / size, -c / size, a / size
    return a, b, -(a * tx + b * ty), c, d, -(c * tx + d * ty)


def _scaled(boxes: Tensor, sx: float, tx: float, sy: float, ty: float) -> Tensor:
    # float64: a box that travels original -> view -> original must come back to within 1e-3 px at any image size.
    x = boxes[:, 0::2].double() * sx + tx
    y = boxes[:, 1::2].double() * sy + ty
    return _around(x, y).to(boxes.dtype)


def _warped(boxes: Tensor, matrix: Matrix) -> Tensor:
    a, b, tx, c, d, ty = matrix
    x1, y1, x2, y2 = boxes.double().unbind(dim=1)
    x, y = torch.stack([x1, x2, x2, x1], dim=1), torch.stack([y1, y1, y2, y2], dim=1)  # the corners, around
    return _around(a * x + b * y + tx, c * x + d * y + ty).to(boxes.dtype)


def _around(x: Tensor, y: Tensor) -> Tensor:
    """Return the upright boxes `[N, 4]` around corners with coordinates `x` and `y`, each `[N, C]`."""
    low_x, high_x = x.amin(dim=1), x.amax(dim=1)  # a flip swaps the corners
    low_y, high_y = y.amin(dim=1), y.amax(dim=1)
    return torch.stack([low_x, low_y, high_x, high_y], dim=1)


def clip_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Clip boxes `[N, 4]` to an image of `height` x `width` pixels."""
    x = boxes[:, 0::2].clamp(0, width)
    y = boxes[:, 1::2].clamp(0, height)
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)


def limits_of(sizes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Return the greatest coordinates (x, y, x, y) in images of (height, width) `sizes`: `[N, 4]` float32."""
    return to_device(torch.tensor([(w, h, w, h) for h, w in sizes], dtype=torch.float32), device)


def clipped_within(boxes: Tensor, limits: Tensor) -> Tensor:
    """Clip boxes `[..., 4]` to the images that they lie in; see `limits_of`."""
    return torch.minimum(boxes.clamp(min=0), limits)


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
