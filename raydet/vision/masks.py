"""Masks between images, views and RoIs. A mask is a bool per pixel; COCO's compressed RLE is how it is kept.

A pixel of a view belongs to an object where its centre, carried back, lies on a pixel of the original that does: the
same 2 x 3 matrix as of the boxes, whatever it does, and no value in between.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from raydet.records import Masks
from raydet.vision.geometry import View, inverse

THRESHOLD = 0.5
"""Probability from which on a pixel is the object's."""


def decoded(rles: Sequence[bytes], height: int, width: int) -> Tensor:
    """Return the masks `[N, H, W]` bool of compressed RLEs of one image; empty bytes are an empty mask.

    The RLEs are of the size given: they were checked when they were read.
    """
    from pycocotools import mask as coco

    found = np.zeros((len(rles), height, width), dtype=np.bool_)
    known = [place for place, rle in enumerate(rles) if rle]
    if known:
        each = coco.decode([{"size": [height, width], "counts": rles[place]} for place in known])  # [H, W, K]
        found[known] = each.transpose(2, 0, 1)
    return torch.from_numpy(found)


def encoded(mask: Tensor) -> bytes:
    """Return a mask `[H, W]` bool as COCO's compressed RLE."""
    from pycocotools import mask as coco

    return bytes(coco.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))["counts"])


def masks_into_view(rles: Sequence[bytes], height: int, width: int, view: View) -> Masks:
    """Carry masks of an image of `height` x `width` pixels into a view; empty bytes are masks that nobody knows."""
    known = torch.tensor([bool(rle) for rle in rles], dtype=torch.bool)
    return packed(warped(decoded(rles, height, width), view), known)


def warped(masks: Tensor, view: View) -> Tensor:
    """Return masks `[N, H, W]` bool of the original as a view shows them, `[N, view.height, view.width]` bool."""
    height, width = masks.shape[1:]
    a, b, tx, c, d, ty = inverse(view.matrix)
    x = torch.arange(view.width, dtype=torch.float64) + 0.5
    y = (torch.arange(view.height, dtype=torch.float64) + 0.5)[:, None]
    column, row = torch.floor(a * x + b * y + tx), torch.floor(c * x + d * y + ty)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).to(torch.int64)
    return masks.flatten(1)[:, place.flatten()].reshape(len(masks), view.height, view.width) & inside


def packed(masks: Tensor, known: Tensor) -> Masks:
    """Return masks `[N, h, w]` bool of a view as a bit a pixel; `known` `[N]` bool: whether anybody has drawn it."""
    count, height, width = masks.shape
    bits = np.packbits(masks.flatten(1).numpy(), axis=1)
    return Masks(torch.from_numpy(bits.reshape(count, -(-height * width // 8))), known, height, width)


def unpacked(masks: Masks) -> Tensor:
    """Return them as `[N, h, w]` bool, on the CPU."""
    area = masks.height * masks.width
    bits = np.unpackbits(masks.bits.numpy(), axis=1, count=area)
    return torch.from_numpy(bits.reshape(len(masks), masks.height, masks.width).astype(np.bool_))


def targets_in(masks: Tensor, owners: Tensor, rois: Tensor, side: int, *, aligned: bool) -> Tensor:
    """Return what a mask head should say of RoIs `[R, 4]`, `[R, side, side]` float32 in [0, 1].

    RoI i is of the object whose mask is `masks[owners[i]]`, `[G, h, w]` in view pixels; each number is the share of its
    cell that the object covers (RoIAlign, as torchvision's Mask R-CNN).
    """
    rows = torch.cat([owners[:, None].to(rois), rois], dim=1)
    found: Tensor = roi_align(masks[:, None].to(rois), rows, side, 1.0, aligned=aligned)[:, 0]
    return found


def pasted(probabilities: Tensor, boxes: Tensor, height: int, width: int) -> list[bytes]:
    """Return masks in boxes as compressed RLEs of an image of `height` x `width` pixels.

    `probabilities` `[N, M, M]` lie in `boxes` `[N, 4]` xyxy, pixels of the image. Between their centres they are
    interpolated, beyond the outermost they fall to 0 (detectron2); from `THRESHOLD` on a pixel belongs to the object.
    """
    return [
        encoded(_pasted(*each, height, width))
        for each in zip(probabilities.float().cpu(), boxes.double().cpu(), strict=True)
    ]


def _pasted(probabilities: Tensor, box: Tensor, height: int, width: int) -> Tensor:
    whole = torch.zeros(height, width, dtype=torch.bool)
    x1, y1, x2, y2 = box.tolist()
    left, top = max(int(np.floor(x1)), 0), max(int(np.floor(y1)), 0)
    right, bottom = min(int(np.ceil(x2)), width), min(int(np.ceil(y2)), height)
    if right <= left or bottom <= top or x2 <= x1 or y2 <= y1:
        return whole
    x = (torch.arange(left, right, dtype=torch.float64) + 0.5 - x1) / (x2 - x1) * 2 - 1
    y = (torch.arange(top, bottom, dtype=torch.float64) + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack([x[None].expand(len(y), len(x)), y[:, None].expand(len(y), len(x))], dim=-1)
    values = functional.grid_sample(probabilities[None, None], grid[None].float(), align_corners=False)[0, 0]
    whole[top:bottom, left:right] = values >= THRESHOLD
    return whole
