"""Faster R-CNN with its stages opened: losses per image, candidates before NMS, an optional IoU branch.

The standard parts carry torchvision's parameter names (`backbone.*`, `rpn.*`, `roi_heads.*`), so that their weights
load into a plain torchvision `FasterRCNN`; the branch is `iou_branch.*`. Outside this package classes are 0-based
without background; inside, class 0 is background.

Deviations from torchvision, all switchable in `ModelConfig` (`config/detector.py`) unless they say otherwise; always:
the objectness loss is to be divided by `rpn_batch` where torchvision divides by the anchors it found; predictor and box
head start from detectron2's initial weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from raydet import losses
from raydet.config.detection_methods import IoUBranchConfig
from raydet.config.detector import ModelConfig
from raydet.models.backbones import build_backbone
from raydet.models.images import ImageBatch
from raydet.models.iou_branch import IoUBranch, gate_quality, placement
from raydet.models.roi import RoiHeads, RoiScores, SampledRois, box_coder, by_class
from raydet.models.rpn import AnchorScores, Rpn, proposals, rpn_losses
from raydet.records import Candidates, Target

MIN_SIDE_PX = 1e-2  # torchvision's, for detections

Proposals = Literal["train", "test"]


@dataclass(frozen=True, slots=True, eq=False)
class DetectionLosses:
    """Loss sums and counts of each image of a batch, all `[N]`; sums float32, counts int64.

    Any group of images is normalised by summing both over the group: RPN losses by `anchors`, RoI losses by `rois`, the
    IoU loss by `iou_count`. Every sum is on the graph, also where it is zero for want of samples.
    """

    rpn_cls: Tensor  # binary cross-entropy over the sampled anchors
    rpn_reg: Tensor  # box distance over the foreground anchors
    roi_cls: Tensor  # classification loss over the sampled RoIs
    roi_reg: Tensor  # box distance over the foreground RoIs
    iou: Tensor  # IoU-branch loss over the foreground RoIs; zero without a branch
    anchors: Tensor  # `rpn_batch`, whether so many anchors could be sampled or not
    rois: Tensor  # sampled RoIs, foreground and background
    fg_rois: Tensor  # foreground among them
    iou_positives: Tensor  # foreground whose decoded box is well placed (target 1 of the branch)
    iou_count: Tensor  # normaliser of `iou`: `rois`, or `fg_rois` for its smooth L1 ablation


class Detector(nn.Module):
    """Faster R-CNN with FPN. Methods compute losses and candidates with the stages they name."""

    def __init__(
        self,
        config: ModelConfig,
        num_classes: int,
        *,
        iou_branch: IoUBranchConfig | None = None,
        iou_target_threshold: float = 0.75,
    ) -> None:
        """Build a detector for `num_classes` classes without background.

        Raises CheckpointError where `config.weights` cannot be used, ConfigError for impossible branch inputs.
        """
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.backbone = build_backbone(config)
        self.rpn = Rpn(config)
        self.roi_heads = RoiHeads(config, num_classes)
        self.iou_branch: IoUBranch | None = None
        if iou_branch is not None:
            self.iou_branch = IoUBranch(
                iou_branch,
                feature_dim=config.box_head_dim,
                num_classes=num_classes,
                target_threshold=iou_target_threshold,
            )

    def losses(self, images: ImageBatch, targets: Sequence[Target], rngs: Sequence[torch.Generator]) -> DetectionLosses:
        """Return the losses of each image, from one forward of backbone, RPN head and RoI head for all of them.

        `rngs[i]` draws the anchors and RoIs of image i. Raises ValueError for boxes without an inside: they have no
        finite encoding.
        """
        _check(targets)
        device = images.pixels.device
        boxes = [target.boxes.to(device) for target in targets]
        labels = [target.classes.to(device) + 1 for target in targets]
        features = self.features(images)
        scores = self.score_anchors(images, features)
        rpn_cls, rpn_reg = self.rpn_terms(scores, boxes, rngs)
        found = self.propose(scores, images, "train")
        rois = [self.roi_heads.sample(*each) for each in zip(found, boxes, labels, rngs, strict=True)]
        said = self.score_rois(features, [each.boxes for each in rois])
        roi_cls, roi_reg = self.roi_terms(said, rois)
        iou, iou_positives = self.iou_terms(said, rois, boxes)
        num_rois = torch.tensor([len(each.boxes) for each in rois], device=device)
        fg_rois = torch.tensor([each.num_foreground for each in rois], device=device)
        by_fg = self.iou_branch is not None and self.iou_branch.config.loss == "smooth_l1"
        return DetectionLosses(
            rpn_cls=rpn_cls,
            rpn_reg=rpn_reg,
            roi_cls=roi_cls,
            roi_reg=roi_reg,
            iou=iou,
            anchors=torch.full_like(num_rois, self.config.rpn_batch),
            rois=num_rois,
            fg_rois=fg_rois,
            iou_positives=iou_positives,
            iou_count=fg_rois if by_fg else num_rois,
        )

    @torch.no_grad()
    def candidates(
        self, images: ImageBatch, *, proposals: Proposals, score_floor: float, top_k: int
    ) -> list[Candidates]:
        """Return each image's class-wise boxes before NMS, score descending: those above the floor, at most `top_k`.

        `proposals` says whose proposal numbers count, training's or evaluation's. `quality` is the IoU branch's q of
        the RoI's most probable class; 1 where that is background, and without a branch. Images are grouped by the frame
        they need, so that padding for a large neighbour changes nothing. Normalisation layers follow `self.training`.
        """
        found: dict[int, Candidates] = {}
        for positions, group in images.by_frame():
            features = self.features(group)
            boxes = self.propose(self.score_anchors(group, features), group, proposals)
            said = self.score_rois(features, boxes)
            counts = [len(each) for each in boxes]
            split = [torch.split(rows, counts) for rows in (said.class_logits, said.box_deltas, self._quality(said))]
            for position, size, *part in zip(positions, group.sizes, boxes, *split, strict=True):
                found[position] = _candidates(*part, size=size, score_floor=score_floor, top_k=top_k)
        return [found[i] for i in range(len(images))]

    def features(self, images: ImageBatch) -> dict[str, Tensor]:
        """Return the pyramid's maps `[N, C, H/stride, W/stride]`, finest first."""
        maps: dict[str, Tensor] = self.backbone(images.pixels)
        return maps

    def score_anchors(self, images: ImageBatch, features: dict[str, Tensor]) -> AnchorScores:
        """Run the RPN head."""
        height, width = images.pixels.shape[-2:]
        scores: AnchorScores = self.rpn(features, (height, width))
        return scores

    def rpn_terms(
        self, scores: AnchorScores, boxes: Sequence[Tensor], rngs: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Return per-image sums `[N]` of objectness and box loss, for true boxes `boxes[i]` `[G_i, 4]`."""
        return rpn_losses(scores, boxes, rngs, matcher=self.rpn.matcher, config=self.config)

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

    def score_rois(self, features: dict[str, Tensor], rois: Sequence[Tensor]) -> RoiScores:
        """Run the RoI head on boxes `rois[i]` `[R_i, 4]` of each image."""
        scores: RoiScores = self.roi_heads(features, rois)
        return scores

    def roi_terms(self, said: RoiScores, rois: Sequence[SampledRois]) -> tuple[Tensor, Tensor]:
        """Return per-image sums `[N]` of the classification loss and of the box loss of the true class's deltas."""
        config = self.config
        labels = torch.cat([each.labels for each in rois])
        if config.roi_cls_loss == "focal":
            rows = losses.focal_cross_entropy(said.class_logits, labels, config.cls_focal_exponent)
        else:
            rows = losses.cross_entropy(said.class_logits, labels)
        fg = _Foreground.of(rois)
        wanted = box_coder.encode_single(fg.matched, fg.boxes)
        distance = losses.box_regression(fg.own_deltas(said), wanted, config.box_loss)
        per_image = losses.sum_per_image(rows, [len(each.labels) for each in rois])
        return per_image, losses.sum_per_image(distance, fg.counts)

    def iou_terms(self, said: RoiScores, rois: Sequence[SampledRois], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return per-image sums `[N]` of the branch's loss (IL-net, Eq. 2) and of its targets (Eq. 3, int64).

        The target looks at the box *decoded* from the RoI, not at the RoI, and not clipped.
        """
        fg = _Foreground.of(rois)
        if self.iou_branch is None:
            nothing = said.class_logits.new_zeros(len(rois))
            return nothing, nothing.to(torch.int64)
        logits = self.iou_branch(said.shared[fg.rows], said.class_logits[fg.rows], said.box_deltas[fg.rows])
        own = logits.gather(1, fg.labels[:, None])[:, 0]
        decoded = box_coder.decode_single(fg.own_deltas(said).detach(), fg.boxes)
        best = self.iou_branch.config.target_gt == "max"
        iou = torch.cat(
            [
                placement(part, each.matched, truth, best=best)
                for part, each, truth in zip(torch.split(decoded, fg.counts), rois, boxes, strict=True)
            ]
        )
        rows, targets = self.iou_branch.loss_rows(own, iou)
        # An empty sum over the branch's output still gives every parameter of the branch a (zero) gradient.
        return losses.sum_per_image(rows, fg.counts), losses.sum_per_image(targets, fg.counts).to(torch.int64)

    def _quality(self, said: RoiScores) -> Tensor:
        if self.iou_branch is None:
            return torch.ones_like(said.class_logits[:, 0])
        branch = self.iou_branch(said.shared, said.class_logits, said.box_deltas)
        return gate_quality(said.class_logits, branch)


@dataclass(frozen=True, slots=True, eq=False)
class _Foreground:
    """The foreground RoIs of all images, as rows of the head's output."""

    rows: Tensor  # [F] int64
    boxes: Tensor  # [F, 4]
    labels: Tensor  # [F], from 1 on
    matched: Tensor  # [F, 4]
    counts: list[int]  # per image

    @staticmethod
    def of(rois: Sequence[SampledRois]) -> _Foreground:
        boxes, labels = torch.cat([each.boxes for each in rois]), torch.cat([each.labels for each in rois])
        rows = torch.where(labels > 0)[0]
        counts = [each.num_foreground for each in rois]
        return _Foreground(rows, boxes[rows], labels[rows], torch.cat([each.matched for each in rois]), counts)

    def own_deltas(self, said: RoiScores) -> Tensor:
        """Return the deltas `[F, 4]` of each RoI's own class."""
        return by_class(said.box_deltas)[self.rows, self.labels]


def _candidates(
    rois: Tensor,
    class_logits: Tensor,
    box_deltas: Tensor,
    quality: Tensor,
    *,
    size: tuple[int, int],
    score_floor: float,
    top_k: int,
) -> Candidates:
    """Turn one image's RoI scores into candidates, see `Detector.candidates`."""
    scores = class_logits.softmax(dim=1)[:, 1:]
    roi, klass = torch.where(scores > score_floor)
    deltas = by_class(box_deltas)[roi, klass + 1]
    boxes = clip_boxes_to_image(box_coder.decode_single(deltas, rois[roi]), size)
    real = remove_small_boxes(boxes, MIN_SIDE_PX)
    ranked, order = scores[roi, klass][real].sort(descending=True, stable=True)
    rows = real[order[:top_k]]
    # What was cut off first bounds from above what may be missing.
    complete_above = float(ranked[top_k]) if len(ranked) > top_k else score_floor
    return Candidates(boxes[rows], klass[rows], ranked[:top_k], quality[roi[rows]], complete_above)


def _check(targets: Sequence[Target]) -> None:
    for i, target in enumerate(targets):
        flat = (target.boxes[:, 2:] <= target.boxes[:, :2]).any(dim=1)
        if bool(flat.any()):
            raise ValueError(
                f"image {i} of the batch: box {target.boxes[flat][0].tolist()} has no inside; drop such boxes before "
                f"training (an image without boxes is valid)"
            )
