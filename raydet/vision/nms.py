"""Non-maximum suppression within groups."""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import batched_nms, nms


def nms_within(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Return the rows of `boxes` `[N, 4]` that no better row of the same group overlaps by more than `iou`, best first.

    torchvision's `batched_nms`. On a GPU its way for fewer boxes, groups that lie far apart, without the constant that
    it sends there at every call.
    """
    if not boxes.is_cuda or not len(boxes):
        found: Tensor = batched_nms(boxes, scores, groups, iou)
        return found
    apart = groups.to(boxes.dtype) * (boxes.max() + 1)
    kept: Tensor = nms(boxes + apart[:, None], scores, iou)
    return kept
