"""How the stages of a detector are put together in training: what each pass samples, and the losses of its rows.

A method names the passes it wants and the boxes that each is about; with the same boxes for all of them, `train_pass`
is torchvision's Faster R-CNN, or Cascade R-CNN. Losses are kept per image, so that any group of images can be
normalised by its own counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from raydet.config.detector import ModelConfig
from raydet.contract import LossTerm
from raydet.families.detection.batch import StudentBatch
from raydet.families.detection.mask_pass import mask_pass
from raydet.records import Target
from raydet.vision import losses
from raydet.vision.cascade import CascadeHeads, moved
from raydet.vision.detector import Detector
from raydet.vision.images import ImageBatch
from raydet.vision.mask_head import MaskHeads
from raydet.vision.roi import RoiScores, SampledRois, box_coder, own_deltas
from raydet.vision.rpn import AnchorScores, rpn_losses

ABSENT = -1e4  # a logit that stands for no class: its probability is 0, and no gradient reaches it


@dataclass(frozen=True, slots=True, eq=False)
class RpnPass:
    """Losses of the region proposals, per image `[N]` float32; every sum is on the graph, also an empty one."""

    cls: Tensor  # binary cross-entropy, summed over the sampled anchors
    reg: Tensor  # box distance, summed over the foreground anchors
    anchors: Tensor  # [N] int64 normaliser of both: `rpn_batch`, whether so many anchors could be sampled or not


@dataclass(frozen=True, slots=True, eq=False)
class RoiPass:
    """RoIs drawn for training, what the head says about them, and the losses of each; rows are image by image."""

    rois: tuple[SampledRois, ...]
    scores: RoiScores  # of R RoIs
    labels: Tensor  # [R] int64, 0 is background
    counts: list[int]  # RoIs per image
    fg_rows: Tensor  # [F] int64: which of the R are foreground
    fg_counts: list[int]  # foreground RoIs per image
    fg_boxes: Tensor  # [F, 4] xyxy, frame pixels: the foreground RoIs themselves
    deltas: Tensor  # [F, 4]: what the head says of their own classes
    wanted: Tensor  # [F, 4]: what it should say
    logits: Tensor  # [R, K + 1]: the class logits that the loss looks at, see `looked_for`
    cls_rows: Tensor  # [R] classification losses
    reg_rows: Tensor  # [F] box distances
    coder: BoxCoder = box_coder  # how `deltas` are meant

    @property
    def num_rois(self) -> Tensor:
        """Return the RoIs of each image `[N]`: the papers' normaliser of all losses of the head."""
        return torch.tensor(self.counts, device=self.labels.device)

    @property
    def num_foreground(self) -> Tensor:
        """Return the foreground RoIs of each image `[N]`."""
        return torch.tensor(self.fg_counts, device=self.labels.device)

    def cls(self, row_weights: Tensor | None = None) -> Tensor:
        """Return the classification loss of each image `[N]`, its rows weighted by `[R]` where given."""
        rows = self.cls_rows if row_weights is None else self.cls_rows * row_weights
        return losses.sum_per_image(rows, self.counts)

    def reg(self, row_weights: Tensor | None = None) -> Tensor:
        """Return the box loss of each image `[N]`, its rows weighted by `[F]` where given."""
        rows = self.reg_rows if row_weights is None else self.reg_rows * row_weights
        return losses.sum_per_image(rows, self.fg_counts)


@dataclass(frozen=True, slots=True, eq=False)
class TrainPass:
    """One forward of backbone, RPN head and RoI head over a batch of images, all about the same boxes."""

    features: dict[str, Tensor]
    proposals: list[Tensor]  # of each image, [P, 4]
    boxes: list[Tensor]  # true boxes of each image, [G, 4], on the device
    rpn: RpnPass
    stages: tuple[RoiPass, ...]  # of the RoI heads: one, or those of a cascade
    sums: dict[str, Tensor]  # the standard losses of each image, [N], and
    counts: dict[str, Tensor]  # their normalisers of each image, [N]

    @property
    def roi(self) -> RoiPass:
        """Return the last stage."""
        return self.stages[-1]


def train_pass(
    detector: Detector, images: ImageBatch, targets: Sequence[Target], rngs: Sequence[torch.Generator]
) -> TrainPass:
    """Run everything once; `rngs[i]` draws the anchors, then the RoIs, of image i.

    There is a loss `mask` where the detector has a mask head. Losses of a cascade's later stages are named `roi_cls_2`,
    `roi_reg_2` and so on. Raises ValueError for boxes without an inside: they have no finite encoding.
    """
    check_boxes(targets)
    boxes = [target.boxes.to(images.pixels.device) for target in targets]
    labels = [target.classes.to(images.pixels.device) + 1 for target in targets]
    features = detector.features(images)
    scores = detector.score_anchors(features)
    rpn = rpn_pass(detector, scores, boxes, rngs)
    proposals = detector.propose(scores, images, "train")
    verified = [target.verified for target in targets]
    stages = [roi_pass(detector, features, proposals, boxes, labels, rngs, verified)]
    if isinstance(heads := detector.roi_heads, CascadeHeads):
        for stage in range(1, len(heads.coders)):
            stages.append(next_pass(detector, heads, features, stages[-1], images, boxes, labels, verified, stage))
    sums = {"rpn_cls": rpn.cls, "rpn_reg": rpn.reg}
    counts = {"rpn_cls": rpn.anchors, "rpn_reg": rpn.anchors}
    for number, roi in enumerate(stages):
        cls, reg = stage_names(number)
        sums |= {cls: roi.cls(), reg: roi.reg()}
        counts |= {cls: roi.num_rois, reg: roi.num_rois}
    if isinstance(heads, MaskHeads):
        masks = mask_pass(heads, features, stages[0], targets)
        sums["mask"], counts["mask"] = masks.loss, masks.count
    return TrainPass(features, proposals, boxes, rpn, tuple(stages), sums, counts)


def stage_names(stage: int) -> tuple[str, str]:
    """Return what the two losses of a RoI stage, counted from 0 on, are called."""
    end = "" if stage == 0 else f"_{stage + 1}"
    return f"roi_cls{end}", f"roi_reg{end}"


def rpn_pass(
    detector: Detector, scores: AnchorScores, boxes: Sequence[Tensor], rngs: Sequence[torch.Generator]
) -> RpnPass:
    """Sample anchors for true boxes `boxes[i]` `[G_i, 4]` of image i, and compare."""
    cls, reg = rpn_losses(scores, boxes, rngs, matcher=detector.rpn.matcher, config=detector.config)
    return RpnPass(cls, reg, torch.full((len(boxes),), detector.config.rpn_batch, device=cls.device))


def roi_pass(
    detector: Detector,
    features: dict[str, Tensor],
    proposals: Sequence[Tensor],
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    rngs: Sequence[torch.Generator],
    verified: Sequence[Tensor | None] | None = None,
) -> RoiPass:
    """Sample RoIs of each image from its proposals `[P, 4]` and true boxes `[G, 4]`, labels `[G]` from 1; compare.

    `verified`: `Target.verified` of each image. Of a cascade this is the first stage.
    """
    heads = detector.roi_heads
    rois = tuple(heads.sample(*each) for each in zip(proposals, boxes, labels, rngs, strict=True))
    said = detector.score_rois(features, [each.boxes for each in rois])
    return compared(detector.config, rois, said, verified, heads.coders[0])


def next_pass(
    detector: Detector,
    heads: CascadeHeads,
    features: dict[str, Tensor],
    before: RoiPass,
    images: ImageBatch,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    verified: Sequence[Tensor | None],
    stage: int,
) -> RoiPass:
    """Compare what a later stage of a cascade says of the boxes that the stage `before` has moved."""
    drawn = moved(before.coder, before.scores.box_deltas, [each.boxes for each in before.rois], images.sizes)
    rois = tuple(heads.relabelled(stage, *each) for each in zip(drawn, boxes, labels, strict=True))
    said = detector.score_rois(features, [each.boxes for each in rois], stage)
    return compared(detector.config, rois, said, verified, heads.coders[stage])


def compared(
    config: ModelConfig,
    rois: tuple[SampledRois, ...],
    said: RoiScores,
    verified: Sequence[Tensor | None] | None = None,
    coder: BoxCoder = box_coder,
) -> RoiPass:
    """Compare what the head says of sampled RoIs, image by image, with what it should say."""
    drawn, wanted_labels = torch.cat([each.boxes for each in rois]), torch.cat([each.labels for each in rois])
    logits = looked_for(said.class_logits, rois, verified or [None] * len(rois))
    if config.roi_cls_loss == "focal":
        cls_rows = losses.focal_cross_entropy(logits, wanted_labels, config.cls_focal_exponent)
    else:
        cls_rows = losses.cross_entropy(logits, wanted_labels)
    fg = torch.where(wanted_labels > 0)[0]
    wanted = coder.encode_single(torch.cat([each.matched for each in rois]), drawn[fg])
    deltas = own_deltas(said.box_deltas, fg, wanted_labels[fg])
    return RoiPass(
        rois,
        said,
        wanted_labels,
        counts=[len(each.labels) for each in rois],
        fg_rows=fg,
        fg_counts=[each.num_foreground for each in rois],
        fg_boxes=drawn[fg],
        deltas=deltas,
        wanted=wanted,
        logits=logits,
        cls_rows=cls_rows,
        reg_rows=losses.box_regression(deltas, wanted, config.box_loss),
        coder=coder,
    )


def looked_for(class_logits: Tensor, rois: Sequence[SampledRois], verified: Sequence[Tensor | None]) -> Tensor:
    """Return class logits `[R, K + 1]` without those of classes that background may be after all.

    Where not every class was looked for in an image (`Target.verified`), a background RoI says nothing about the
    others: there they are `ABSENT`, which takes part in no softmax and no sigmoid. Foreground is of one class.
    """
    if all(each is None for each in verified):
        return class_logits
    hidden = []
    for each, known in zip(rois, verified, strict=True):
        may_be_there = torch.zeros_like(class_logits[: len(each.labels)], dtype=torch.bool)
        if known is not None:
            may_be_there[each.labels == 0] = True
            may_be_there[:, 0] = False
            may_be_there[:, known.to(class_logits.device) + 1] = False
        hidden.append(may_be_there)
    return class_logits.masked_fill(torch.cat(hidden), ABSENT)


def loss_terms(found: TrainPass, batch: StudentBatch, group: str, prefix: str) -> dict[str, LossTerm]:
    """Sum the per-image losses of one group of views into named terms `prefix/rpn_cls`, ...

    The counts are the papers' normalisers: sampled anchors for the RPN, all sampled RoIs for the RoI head.
    """
    part = batch.rows(group)
    return {
        f"{prefix}/{name}": LossTerm(rows[part].sum(), found.counts[name][part].sum(), group)
        for name, rows in found.sums.items()
    }


def check_boxes(targets: Sequence[Target]) -> None:
    """Raise ValueError for a box without an inside."""
    for i, target in enumerate(targets):
        flat = (target.boxes[:, 2:] <= target.boxes[:, :2]).any(dim=1)
        if bool(flat.any()):
            raise ValueError(
                f"image {i} of the batch: box {target.boxes[flat][0].tolist()} has no inside; drop such boxes before "
                f"training (an image without boxes is valid)"
            )
