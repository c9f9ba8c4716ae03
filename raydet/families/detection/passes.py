"""How the stages of a detector are put together in training: what each pass samples, and the losses of its rows.

A method names the passes it wants and the boxes that each is about; with the same boxes for all of them, `train_pass`
is torchvision's Faster R-CNN. Losses are kept per image, so that any group of images can be normalised by its own
counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raydet.config.detector import ModelConfig
from raydet.contract import LossTerm
from raydet.families.detection.batch import StudentBatch
from raydet.families.detection.mask_pass import mask_pass
from raydet.records import Target
from raydet.vision import losses
from raydet.vision.box_code import BoxCoder
from raydet.vision.cascade import refined
from raydet.vision.detector import Detector
from raydet.vision.device import all_to_device, to_device
from raydet.vision.images import ImageBatch
from raydet.vision.mask_head import MaskHeads
from raydet.vision.roi import RoiHeads, RoiScores, SampledRois, box_coder, by_class
from raydet.vision.rpn import AnchorScores, rpn_losses

ROI_TERMS = ("roi_cls", "roi_reg")
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
    coder: BoxCoder  # of `deltas` and `wanted`

    @property
    def num_rois(self) -> Tensor:
        """Return the RoIs of each image `[N]`: the papers' normaliser of all losses of the head."""
        return to_device(torch.tensor(self.counts), self.labels.device)

    @property
    def num_foreground(self) -> Tensor:
        """Return the foreground RoIs of each image `[N]`."""
        return to_device(torch.tensor(self.fg_counts), self.labels.device)

    def cls(self) -> Tensor:
        """Return the classification loss of each image `[N]`."""
        return losses.sum_per_image(self.cls_rows, self.counts)

    def reg(self) -> Tensor:
        """Return the box loss of each image `[N]`."""
        return losses.sum_per_image(self.reg_rows, self.fg_counts)


@dataclass(frozen=True, slots=True, eq=False)
class TrainPass:
    """One forward of backbone, RPN head and RoI head over a batch of images, all about the same boxes."""

    features: dict[str, Tensor]
    proposals: list[Tensor]  # of each image, [P, 4]
    boxes: list[Tensor]  # true boxes of each image, [G, 4], on the device
    rpn: RpnPass
    roi: RoiPass  # of the last RoI head
    sums: dict[str, Tensor]  # the losses of each image, [N], by the names of their terms
    counts: dict[str, Tensor]  # the papers' normalisers of each image, [N]: sampled anchors, all sampled RoIs


def train_pass(
    detector: Detector, images: ImageBatch, targets: Sequence[Target], rngs: Sequence[torch.Generator]
) -> TrainPass:
    """Run every stage once; `rngs[i]` draws the anchors, then the RoIs, of image i. A mask head adds a loss `mask`.

    Raises ValueError for boxes without an inside: they have no finite encoding.
    """
    check_boxes(targets)
    boxes, labels = sent(targets, images.pixels.device)
    features = detector.features(images)
    scores = detector.score_anchors(features)
    rpn = rpn_pass(detector, scores, boxes, rngs, images.frames)
    proposals = detector.propose(scores, images, "train")
    verified = [target.verified for target in targets]
    rois = roi_passes(detector, features, proposals, boxes, labels, rngs, verified, images.sizes)
    sums = {"rpn_cls": rpn.cls, "rpn_reg": rpn.reg}
    counts = dict.fromkeys(sums, rpn.anchors)
    for names, each in zip(_of_heads(detector.config), rois, strict=True):
        sums |= dict(zip(names, (each.cls(), each.reg()), strict=True))
        counts |= dict.fromkeys(names, each.num_rois)
    if isinstance(detector.roi_heads, MaskHeads):
        masks = mask_pass(detector.roi_heads, features, rois[-1], targets)
        sums["mask"], counts["mask"] = masks.loss, masks.count
    return TrainPass(features, proposals, boxes, rpn, rois[-1], sums, counts)


def sent(targets: Sequence[Target], device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Return the boxes `[G, 4]` and the labels `[G]`, from 1 on, of each image on the device."""
    boxes = all_to_device([target.boxes for target in targets], device)
    return boxes, all_to_device([target.classes + 1 for target in targets], device)


def rpn_pass(
    detector: Detector,
    scores: AnchorScores,
    boxes: Sequence[Tensor],
    rngs: Sequence[torch.Generator],
    frames: Sequence[tuple[int, int]],
) -> RpnPass:
    """Sample anchors for true boxes `boxes[i]` `[G_i, 4]` of image i, which needs a frame `frames[i]`, and compare."""
    cls, reg, _ = rpn_losses(scores, boxes, rngs, matcher=detector.rpn.matcher, config=detector.config, frames=frames)
    return RpnPass(cls, reg, torch.full((len(boxes),), detector.config.rpn_batch, device=cls.device))


def roi_passes(
    detector: Detector,
    features: dict[str, Tensor],
    proposals: Sequence[Tensor],
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    rngs: Sequence[torch.Generator],
    verified: Sequence[Tensor | None],
    sizes: Sequence[tuple[int, int]],
) -> list[RoiPass]:
    """Run a pass for each RoI head; see `roi_pass`. `sizes`: (height, width) of each image.

    The proposals of a head are the RoIs that the one before was trained on, as it moves them (no gradient); the true
    boxes are added, and RoIs sampled, anew.
    """
    found = list[RoiPass]()
    for head in detector.heads:
        found.append(roi_pass(detector, features, proposals, boxes, labels, rngs, verified, head=head))
        if head is not detector.heads[-1]:
            proposals = refined(head, found[-1].scores, [each.boxes for each in found[-1].rois], sizes)
    return found


def roi_pass(
    detector: Detector,
    features: dict[str, Tensor],
    proposals: Sequence[Tensor],
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    rngs: Sequence[torch.Generator],
    verified: Sequence[Tensor | None] | None = None,
    *,
    head: RoiHeads | None = None,
) -> RoiPass:
    """Sample RoIs of each image from its proposals `[P, 4]` and true boxes `[G, 4]`, labels `[G]` from 1; compare.

    `verified`: `Target.verified` of each image; `head`: one of `Detector.heads`, by default the first.
    """
    head = detector.heads[0] if head is None else head
    rois = head.sample(proposals, boxes, labels, rngs)
    said = head(features, [each.boxes for each in rois])
    return compared(detector.config, rois, said, verified, coder=head.coder)


def compared(
    config: ModelConfig,
    rois: tuple[SampledRois, ...],
    said: RoiScores,
    verified: Sequence[Tensor | None] | None = None,
    *,
    coder: BoxCoder = box_coder,
) -> RoiPass:
    """Compare what the head says of sampled RoIs, image by image, with what it should say."""
    drawn, wanted_labels = torch.cat([each.boxes for each in rois]), torch.cat([each.labels for each in rois])
    logits = looked_for(said.class_logits, rois, verified or [None] * len(rois))
    if config.roi_cls_loss == "focal":
        cls_rows = losses.focal_cross_entropy(logits, wanted_labels, config.cls_focal_exponent)
    else:
        cls_rows = losses.cross_entropy(logits, wanted_labels)
    fg = _foreground(rois, wanted_labels.device)
    wanted = coder.encode(torch.cat([each.matched for each in rois]), drawn[fg])
    deltas = by_class(said.box_deltas)[fg, wanted_labels[fg]]
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


def _foreground(rois: Sequence[SampledRois], device: torch.device) -> Tensor:
    """Return which of the RoIs of all images, one after the other, are foreground: `[F]`."""
    first, found = 0, []
    for each in rois:
        found.append(torch.arange(first, first + each.num_foreground, device=device))
        first += len(each.labels)
    return torch.cat(found)


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


def for_all_heads(weights: Mapping[str, float], model: ModelConfig) -> dict[str, float]:
    """Return the weights of a method's loss terms with those of every RoI head: of the second they end in `_2`."""
    if model.detector != "cascade_rcnn":
        return dict(weights)
    found = {}
    for name, weight in weights.items():
        prefix, _, kind = name.rpartition("/")
        if kind not in ROI_TERMS:
            found[name] = weight
            continue
        for names, share in zip(_of_heads(model), model.cascade_loss_weights, strict=True):
            found[f"{prefix}/{names[ROI_TERMS.index(kind)]}"] = weight * share
    return found


def _of_heads(model: ModelConfig) -> list[tuple[str, ...]]:
    """Return the names of the loss terms of each RoI head."""
    heads = len(model.cascade_ious) if model.detector == "cascade_rcnn" else 1
    return [ROI_TERMS, *(tuple(f"{name}_{k}" for name in ROI_TERMS) for k in range(2, heads + 1))]


def check_boxes(targets: Sequence[Target]) -> None:
    """Raise ValueError for a box without an inside."""
    for i, target in enumerate(targets):
        flat = (target.boxes[:, 2:] <= target.boxes[:, :2]).any(dim=1)
        if bool(flat.any()):
            raise ValueError(
                f"image {i} of the batch: box {target.boxes[flat][0].tolist()} has no inside; drop such boxes before "
                f"training (an image without boxes is valid)"
            )
