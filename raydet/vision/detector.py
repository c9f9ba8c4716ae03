"""A two-stage detector with its stages opened, and candidates before NMS. Training puts the stages together in
`families/detection/passes.py`; a method may add heads in a subclass.

The standard parts carry torchvision's parameter names (`backbone.*`, `rpn.*`, `roi_heads.*`), so that their weights
load into a plain torchvision `FasterRCNN`. Outside, classes are 0-based without background; inside, class 0 is
background.

Deviations from torchvision: those of `config/detector.py`, which can be switched, and always: the objectness loss is to
be divided by `rpn_batch` where torchvision divides by the anchors it found; predictor and box head start from
detectron2's initial weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from raydet.config.detector import ModelConfig
from raydet.records import Candidates
from raydet.vision.backbones import build_backbone
from raydet.vision.cascade import CascadeHeads, moved
from raydet.vision.images import ImageBatch
from raydet.vision.mask_head import MaskHeads
from raydet.vision.roi import RoiHeads, RoiScores, own_deltas
from raydet.vision.rpn import AnchorScores, Rpn, proposals

MIN_SIDE_PX = 1e-2  # torchvision's, for detections

Proposals = Literal["train", "test"]


class Detector(nn.Module):
    """Faster R-CNN with FPN, or what `config.detector` makes of it."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        """Build a detector for `num_classes` classes without background.

        Raises CheckpointError where `config.weights` cannot be used.
        """
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.backbone = build_backbone(config)
        self.rpn = Rpn(config)
        self.roi_heads = build_roi_heads(config, num_classes)
        self.to(memory_format=torch.channels_last)  # as the pixels come: no convolution has to turn its maps about

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
        boxes = self.propose(self.score_anchors(features), images, proposals)
        coders, scores = self.roi_heads.coders, []
        said = self.score_rois(features, boxes)
        for stage in range(1, len(coders)):
            scores.append(self.probabilities(said.class_logits))
            boxes = moved(coders[stage - 1], said.box_deltas, boxes, images.sizes)
            said = self.score_rois(features, boxes, stage)
        scores.append(self.probabilities(said.class_logits))
        mean = scores[0] if len(scores) == 1 else torch.stack(scores).mean(dim=0)
        quality = self.quality(said, said.class_logits if len(scores) == 1 else mean)
        split = [torch.split(each, [len(each) for each in boxes]) for each in (mean, said.box_deltas, quality)]
        return [
            _candidates(*part, coder=coders[-1], size=size, score_floor=score_floor, top_k=top_k)
            for size, *part in zip(images.sizes, boxes, *split, strict=True)
        ]

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

    def score_rois(self, features: dict[str, Tensor], rois: Sequence[Tensor] | Tensor, stage: int = 0) -> RoiScores:
        """Run the RoI head of a stage on boxes `rois[i]` `[R_i, 4]` of each image; see `RoiHeads.forward`."""
        scores: RoiScores = self.roi_heads(features, rois, stage)
        return scores

    def probabilities(self, class_logits: Tensor) -> Tensor:
        """Return what logits `[R, K + 1]` mean as scores in [0, 1], `[R, K + 1]`: those of background, then classes."""
        return class_logits.softmax(dim=1)

    def quality(self, said: RoiScores, guesses: Tensor) -> Tensor:
        """Return how well placed the box of each RoI is, `[R]` in [0, 1]; 1 where the model does not judge it.

        `said` is of the last stage; the best of `guesses` `[R, K + 1]` says what the RoI is taken for.
        """
        return torch.ones_like(said.class_logits[:, 0])


def build_roi_heads(config: ModelConfig, num_classes: int) -> RoiHeads | CascadeHeads:
    """Return the heads of `config.detector`."""
    if config.detector == "cascade_rcnn":
        return CascadeHeads(config, num_classes)
    return (MaskHeads if config.detector == "mask_rcnn" else RoiHeads)(config, num_classes)


def _candidates(
    rois: Tensor,
    probabilities: Tensor,
    box_deltas: Tensor,
    quality: Tensor,
    *,
    coder: BoxCoder,
    size: tuple[int, int],
    score_floor: float,
    top_k: int,
) -> Candidates:
    """Turn one image's RoI scores into candidates, see `Detector.candidates`."""
    scores = probabilities[:, 1:]
    roi, klass = torch.where(scores > score_floor)
    deltas = own_deltas(box_deltas, roi, klass + 1)
    boxes = clip_boxes_to_image(coder.decode_single(deltas, rois[roi]), size)
    real = remove_small_boxes(boxes, MIN_SIDE_PX)
    ranked, order = scores[roi, klass][real].sort(descending=True, stable=True)
    rows = real[order[:top_k]]
    # What was cut off first bounds from above what may be missing.
    complete_above = float(ranked[top_k]) if len(ranked) > top_k else score_floor
    return Candidates(boxes[rows], klass[rows], ranked[:top_k], quality[roi[rows]], complete_above)
