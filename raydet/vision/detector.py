"""Faster, Mask or Cascade R-CNN with its stages opened, and candidates before NMS. Training puts the stages together in
`families/detection/passes.py`; a method may add heads in a subclass.

The standard parts carry torchvision's parameter names (`backbone.*`, `rpn.*`, `roi_heads.*`), so that their weights
load into a plain torchvision `FasterRCNN` or `MaskRCNN`. Outside, classes are 0-based without background; inside,
class 0 is background.

Deviations from torchvision: those of `config/detector.py`, which can be switched, and always: the objectness loss is to
be divided by `rpn_batch` where torchvision divides by the anchors it found; predictor and box head start from
detectron2's initial weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from raydet.config.detector import ModelConfig
from raydet.records import Candidates
from raydet.vision.backbones import build_backbone
from raydet.vision.box_code import BoxCoder
from raydet.vision.cascade import CascadeHeads, refined
from raydet.vision.geometry import clipped_within, limits_of
from raydet.vision.images import ImageBatch, collate
from raydet.vision.mask_head import MaskHeads
from raydet.vision.roi import RoiHeads, RoiScores, by_class
from raydet.vision.rpn import AnchorScores, Rpn, proposals

MIN_SIDE_PX = 1e-2  # torchvision's, for detections

Proposals = Literal["train", "test"]


class Detector(nn.Module):
    """Faster R-CNN with FPN, Mask R-CNN or Cascade R-CNN."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        """Build a detector for `num_classes` classes without background.

        Raises CheckpointError where `config.weights` cannot be used.
        """
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.backbone = build_backbone(config)
        self.rpn = Rpn(config)
        heads = {"faster_rcnn": RoiHeads, "mask_rcnn": MaskHeads, "cascade_rcnn": CascadeHeads}[config.detector]
        self.roi_heads: CascadeHeads | RoiHeads = heads(config, num_classes)
        if config.finetune == "predictors":
            for part in (self.backbone, self.rpn, *(head.box_head for head in self.heads)):
                part.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # as the pixels come: no convolution has to turn its maps about

    @property
    def heads(self) -> tuple[RoiHeads, ...]:
        """Return the RoI heads, each of which works on the boxes of the one before: one in Faster R-CNN."""
        return self.roi_heads.heads

    def framed(self, pixels: Sequence[Tensor]) -> ImageBatch:
        """Return images `[3, h, w]` uint8 RGB as this network takes them, on its device."""
        return collate(pixels, next(self.parameters()).device, self.config.size_divisor)

    @torch.no_grad()
    def candidates(
        self, images: ImageBatch, *, proposals: Proposals, score_floor: float, top_k: int
    ) -> list[Candidates]:
        """Return each image's class-wise boxes before NMS, score descending: those above the floor, at most `top_k`.

        `proposals` says whose proposal numbers count, training's or evaluation's. Images are grouped by the frame
        they need, so that padding for a large neighbour changes nothing. Normalisation layers follow `self.training`.
        """
        found: dict[int, Candidates] = {}
        for positions, group in images.by_frame():
            said = self.candidates_in(
                self.features(group), group, proposals=proposals, score_floor=score_floor, top_k=top_k
            )
            found |= dict(zip(positions, said, strict=True))
        return [found[i] for i in range(len(images))]

    @torch.no_grad()
    def candidates_in(
        self, features: dict[str, Tensor], images: ImageBatch, *, proposals: Proposals, score_floor: float, top_k: int
    ) -> list[Candidates]:
        """Return the candidates of images of one frame whose features are known; see `candidates`."""
        boxes = self.refine(features, self.propose(self.score_anchors(features), images, proposals), images.sizes)
        said = self.score_rois(features, boxes)
        rows = (self.probabilities(said.decided), said.box_deltas, self.quality(said))
        coder = self.heads[-1].coder
        return _candidates(boxes, *rows, coder=coder, sizes=images.sizes, score_floor=score_floor, top_k=top_k)

    def features(self, images: ImageBatch) -> dict[str, Tensor]:
        """Return the pyramid's maps `[N, C, H/stride, W/stride]`, finest first."""
        maps: dict[str, Tensor] = self.backbone(images.pixels)
        return maps

    def score_anchors(self, features: dict[str, Tensor]) -> AnchorScores:
        """Run the RPN head."""
        scores: AnchorScores = self.rpn(features)
        return scores

    def propose(self, scores: AnchorScores, images: ImageBatch, which: Proposals) -> list[Tensor]:
        """Return each image's proposals `[P_i, 4]` xyxy, best first; no gradient."""
        config = self.config
        train = which == "train"
        return proposals(
            scores,
            images.sizes,
            pre_nms=config.rpn_pre_nms_train if train else config.rpn_pre_nms_test,
            post_nms=config.rpn_post_nms_train if train else config.rpn_post_nms_test,
            nms_iou=config.rpn_nms,
        )

    @torch.no_grad()
    def refine(self, features: dict[str, Tensor], rois: list[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Return each image's RoIs `[R_i, 4]` as the heads before the last one move them; of one head, the same."""
        for head in self.heads[:-1]:
            rois = refined(head, head(features, rois), rois, sizes)
        return rois

    def score_rois(self, features: dict[str, Tensor], rois: Sequence[Tensor] | Tensor) -> RoiScores:
        """Run the RoI head, or all of them, on boxes `rois[i]` `[R_i, 4]` of each image; see `RoiHeads.forward`."""
        scores: RoiScores = self.roi_heads(features, rois)
        return scores

    def probabilities(self, class_logits: Tensor) -> Tensor:
        """Return what logits `[R, K + 1]` mean as scores in [0, 1], `[R, K + 1]`: those of background, then classes."""
        return class_logits.softmax(dim=1)

    def quality(self, said: RoiScores) -> Tensor:
        """Return how well placed the box of each RoI is, `[R]` in [0, 1]; 1 where the model does not judge it."""
        return torch.ones_like(said.class_logits[:, 0])


def _candidates(
    rois: list[Tensor],
    probabilities: Tensor,
    box_deltas: Tensor,
    quality: Tensor,
    *,
    coder: BoxCoder,
    sizes: Sequence[tuple[int, int]],
    score_floor: float,
    top_k: int,
) -> list[Candidates]:
    """Turn the scores of all images' RoIs, `rois[i]` `[R_i, 4]`, into candidates, see `Detector.candidates`."""
    device, number = probabilities.device, len(rois)
    image_of = torch.cat([torch.full((len(each),), i, device=device) for i, each in enumerate(rois)])
    roi, klass = torch.where(probabilities[:, 1:] > score_floor)
    image, scores = image_of[roi], probabilities[roi, klass + 1]
    boxes = coder.decode(by_class(box_deltas)[roi, klass + 1], torch.cat(rois)[roi])
    boxes = clipped_within(boxes, limits_of(sizes, device)[image])
    image = torch.where((boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE_PX).all(dim=1), image, number)  # else: of no image
    best_first = scores.sort(descending=True, stable=True).indices
    order = best_first[image[best_first].argsort(stable=True)]
    lengths = (image == torch.arange(number, device=device)[:, None]).sum(dim=1).tolist()
    ranked = torch.split(order, [*lengths, len(order) - sum(lengths)])[:number]
    # What was cut off first bounds from above what may be missing.
    firsts = [rows[top_k : top_k + 1] for rows in ranked]
    cut = iter(scores[torch.cat(firsts)].tolist() if any(len(rows) for rows in firsts) else ())
    found = []
    for rows, first in zip(ranked, firsts, strict=True):
        kept, floor = rows[:top_k], next(cut) if len(first) else score_floor
        found.append(Candidates(boxes[kept], klass[kept], scores[kept], quality[roi[kept]], floor))
    return found
