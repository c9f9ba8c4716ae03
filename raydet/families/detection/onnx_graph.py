"""The graph of a detector's ONNX file: detection with as few data-dependent shapes as the exporter can follow.

`DetectionMethod.detect` for a batch: images, classes and levels do not meet in NMS because each has a group of its own.
The number of proposals follows from the size of the images, and missing ones are marked; the result is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from raydet.families.detection.saved import SavedDetector
from raydet.records import Candidates
from raydet.vision.box_code import BoxCoder
from raydet.vision.cascade import moved
from raydet.vision.detector import MIN_SIDE_PX
from raydet.vision.images import IMAGENET_MEAN, IMAGENET_STD, ImageBatch
from raydet.vision.rpn import MIN_SIDE_PX as MIN_PROPOSAL_SIDE_PX
from raydet.vision.rpn import AnchorScores

_BOOL = 9  # ONNX's number for the type
_NEVER = -1e30  # a score that no box has
_anchor_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))


@dataclass(frozen=True, slots=True, eq=False)
class _Owned(Candidates):
    """Candidates of several images. Gates judge rows one by one, so they need not know whose these are."""

    image: Tensor = field(kw_only=True)  # [N] int64

    def where(self, mask: Tensor) -> _Owned:
        """Keep the rows of a mask, or those of an index tensor in its order."""
        kept = (self.boxes[mask], self.classes[mask], self.scores[mask], self.quality[mask])
        return _Owned(*kept, self.complete_above, image=self.image[mask])


class DetectionGraph(nn.Module):
    """Images `[B, 3, H, W]` uint8 RGB to detections, image by image, the best first."""

    def __init__(self, saved: SavedDetector) -> None:
        super().__init__()
        self.model = saved.model
        self.config = saved.config.model
        self.gate = saved.method.gate

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return boxes `[N, 4]`, labels `[N]`, scores `[N]` and the image `[N]` that each belongs to."""
        model, config = self.model, self.config
        height, width = images.shape[2], images.shape[3]
        features = model.features(ImageBatch(self.normalised(images), ()))
        rois, exists = self.propose(model.score_anchors(features), height, width)
        owner = torch.arange(images.shape[0])[:, None].expand(rois.shape[0], rois.shape[1]).reshape(-1)
        rois, exists = rois.reshape(-1, 4), exists.reshape(-1)
        for head in model.heads[:-1]:
            said = head(features, torch.cat([owner[:, None].float(), rois], dim=1))
            rois = _clip(moved(head, said, rois), height, width)
        said = model.score_rois(features, torch.cat([owner[:, None].float(), rois], dim=1))
        scores = said.decided.softmax(dim=1)[:, 1:]  # [R, K]
        each = scores.shape[1]
        decoded = model.heads[-1].coder.decode(said.box_deltas, rois).reshape(-1, each + 1, 4)[:, 1:]
        boxes = _clip(decoded, height, width).reshape(-1, 4)

        def per_class(values: Tensor) -> Tensor:
            return values[:, None].expand(values.shape[0], each).reshape(-1)

        classes = torch.arange(each)[None].expand(scores.shape[0], each).reshape(-1)
        quality, image = per_class(model.quality(said)), per_class(owner)
        rows = _Owned(boxes, classes, scores.reshape(-1), quality, config.test_score_floor, image=image)
        is_real = (rows.scores > config.test_score_floor) & _is_large(boxes, MIN_SIDE_PX)
        gated = self.gate(rows.where(is_real & per_class(exists)))
        assert isinstance(gated, _Owned)
        groups = gated.image * model.num_classes + gated.classes
        rows = gated.where(survives_nms(gated.boxes, gated.scores, groups, config.test_nms))
        rows = self.best_of_each(rows, images.shape[0])
        return rows.boxes, rows.classes, rows.scores, rows.image

    def best_of_each(self, rows: _Owned, number: Any) -> _Owned:
        """Return each image's `test_detections` best rows, image by image."""
        # Both become ONNX's TopK, which keeps equals in order.
        rows = rows.where(rows.scores.sort(descending=True).indices)
        rows = rows.where(rows.image.sort().indices)
        counts = (rows.image[None] == torch.arange(number)[:, None]).sum(dim=1)
        first = counts.cumsum(0) - counts
        place = torch.ones_like(rows.image).cumsum(0) - 1 - first[rows.image]
        return rows.where(place < self.config.test_detections)

    def normalised(self, images: Tensor) -> Tensor:
        """Do what `collate` does: `[B, 3, H', W']` float32."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        # Written so that the exporter can halve it again and again: a multiple of 32, whatever the size.
        divisor = self.config.size_divisor
        height, width = ((side + divisor - 1) // divisor * divisor for side in (images.shape[2], images.shape[3]))
        padding = (0, width - images.shape[3], 0, height - images.shape[2])
        return nn.functional.pad((images.float() / 255 - mean) / std, padding)

    def propose(self, scores: AnchorScores, height: Any, width: Any) -> tuple[Tensor, Tensor]:
        """Return as many proposals `[B, P, 4]` as there can be, best first, and a mask `[B, P]` of those that exist."""
        config = self.config
        best, levels, offset = [], [], 0
        for level, size in enumerate(scores.level_sizes):
            most = torch.sym_min(config.rpn_pre_nms_test, size)
            top = scores.objectness[:, offset : offset + size].topk(most, dim=1).indices
            best.append(top + offset)
            levels.append(torch.full_like(top, level))
            offset = offset + size
        rows, level_of = torch.cat(best, dim=1), torch.cat(levels, dim=1)  # [B, T]
        objectness = scores.objectness.gather(1, rows)
        deltas = scores.deltas.gather(1, rows[..., None].expand(rows.shape[0], rows.shape[1], 4))
        boxes = _anchor_coder.decode(deltas.reshape(-1, 4), scores.anchors[rows.reshape(-1)])
        boxes = _clip(boxes, height, width)
        groups = torch.arange(rows.shape[0])[:, None] * len(levels) + level_of
        kept = survives_nms(boxes, objectness.reshape(-1), groups.reshape(-1), config.rpn_nms)
        # Boxes without an inside overlap nothing: whether they go before or after NMS makes no difference.
        kept = (kept & _is_large(boxes, MIN_PROPOSAL_SIDE_PX)).reshape(rows.shape[0], rows.shape[1])
        ranked = torch.where(kept, objectness, torch.full_like(objectness, _NEVER))
        values, order = ranked.topk(torch.sym_min(config.rpn_post_nms_test, rows.shape[1]), dim=1)
        by_image = boxes.reshape(rows.shape[0], rows.shape[1], 4)
        return by_image.gather(1, order[..., None].expand(order.shape[0], order.shape[1], 4)), values > _NEVER


def _clip(boxes: Tensor, height: Any, width: Any) -> Tensor:
    """Clip boxes `[..., 4]` to the image, whose size may not be known yet."""
    x, y = boxes[..., 0::2].clamp(min=0), boxes[..., 1::2].clamp(min=0)
    x = torch.minimum(x, torch.full_like(x, 1.0) * width)
    y = torch.minimum(y, torch.full_like(y, 1.0) * height)
    return torch.stack([x, y], dim=-1).flatten(-2)


def _is_large(boxes: Tensor, min_side_px: float) -> Tensor:
    return ((boxes[:, 2:] - boxes[:, :2]) >= min_side_px).all(dim=1)


@torch.library.custom_op("raydet::survives_nms", mutates_args=())
def survives_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Return a mask `[R]` of the boxes `[R, 4]` that NMS within their groups `[R]` keeps.

    One operator for the exporter, which cannot follow a list of survivors, and one ONNX node; see `nms_in_onnx`.
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[batched_nms(boxes, scores, groups, iou)] = True
    return kept


@survives_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def nms_in_onnx(boxes: Any, scores: Any, groups: Any, iou: float) -> Any:
    """Say `survives_nms` in ONNX: every box competes in its own group's row of a table of scores."""
    from onnxscript import opset18

    op: Any = opset18  # its types know nothing of values that are yet to be computed
    present, _, _, _ = op.Unique(groups)
    own = op.Equal(op.Unsqueeze(present, [1]), op.Unsqueeze(groups, [0]))
    table = op.Where(own, op.Unsqueeze(scores, [0]), op.Constant(value_float=_NEVER))
    survivors = op.NonMaxSuppression(
        op.Unsqueeze(boxes, [0]),
        op.Unsqueeze(table, [0]),
        op.Constant(value_ints=[2**31 - 1]),
        op.Constant(value_floats=[iou]),
        op.Constant(value_floats=[_NEVER]),
    )  # [S, 3]: 0, row of the table, box
    which = op.Slice(survivors, [2], [3], [1])
    ones = op.Expand(op.Constant(value_ints=[1]), op.Slice(op.Shape(survivors), [0], [1]))
    zeros = op.Expand(op.Constant(value_ints=[0]), op.Shape(scores))
    return op.Cast(op.ScatterND(zeros, which, ones), to=_BOOL)
