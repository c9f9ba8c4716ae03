"""IL-net's IoU branch (section 3.2): a classifier that says, per class, whether the decoded box is well placed.

    q_i = sigmoid(f(concat(x_i, s_i[, d_i])))[y_i]        f: Linear -> ELU -> Linear                     (Eq. 2)
    t_i = 1 if IoU(decoded box of class y_i, ground truth) > mu else 0                                   (Eq. 3)

x: shared RoI feature, s: class logits with background, d: box deltas of all classes. Class 0 is background: its column
exists, is never trained and never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raydet.config.detector import ModelConfig
from raydet.contract import LossTerm
from raydet.errors import ConfigError
from raydet.families.detection.batch import StudentBatch
from raydet.families.detection.config import IoUBranchConfig
from raydet.families.detection.passes import RoiPass
from raydet.vision import losses
from raydet.vision.detector import Detector
from raydet.vision.geometry import paired_iou
from raydet.vision.roi import RoiScores

BACKGROUND = 1.0
"""The quality of an RoI whose most probable class is background."""
_BELOW_ONE = 1 - 2**-24  # the largest float32 below 1: above a logit of 17 a sigmoid is rounded to 1


class IoUBranch(nn.Module):
    """The two layers of f, and the loss that they are trained with."""

    def __init__(self, config: IoUBranchConfig, *, feature_dim: int, num_classes: int, target_threshold: float) -> None:
        """Build the branch for `num_classes` classes without background. Raises ConfigError without `roi_features`."""
        super().__init__()
        if "roi_features" not in config.inputs:
            raise ConfigError(
                f"iou_branch.inputs is {list(config.inputs)}: roi_features is mandatory; add it to the list"
            )
        self.config = config
        self.target_threshold = target_threshold
        widths = {"roi_features": feature_dim, "class_logits": num_classes + 1, "box_deltas": 4 * num_classes}
        self.hidden = nn.Linear(sum(widths[name] for name in set(config.inputs)), config.hidden)
        self.activation = nn.ELU() if config.activation == "elu" else nn.Identity()
        self.score = nn.Linear(config.hidden, num_classes + 1)
        for layer in (self.hidden, self.score):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, shared: Tensor, class_logits: Tensor, box_deltas: Tensor) -> Tensor:
        """Return logits `[R, K + 1]` float32 for features `[R, D]`, logits `[R, K + 1]`, deltas `[R, 4 * (K + 1)]`.

        The four deltas of the background class are left out: they are never trained, hence noise.
        """
        available = {"roi_features": shared, "class_logits": class_logits, "box_deltas": box_deltas[:, 4:]}
        used = [value.float() for name, value in available.items() if name in self.config.inputs]
        joined = torch.cat(used, dim=1)
        if self.config.detach_inputs:
            joined = joined.detach()
        logits: Tensor = self.score(self.activation(self.hidden(joined)))
        return logits.float()

    def loss_rows(self, logits: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the target of each foreground RoI, both `[F]`.

        `logits` `[F]` are those of the RoIs' own classes, `iou` `[F]` how well their decoded boxes are placed.
        """
        target = (iou > self.target_threshold).float()
        if self.config.loss == "smooth_l1":
            return losses.smooth_l1(logits.sigmoid(), iou), target
        wanted = iou if self.config.loss == "focal_soft" else target
        return losses.binary_focal(logits, wanted, self.config.focal_exponent), target


def gate_quality(class_logits: Tensor, branch_logits: Tensor) -> Tensor:
    """Return the quality `[R]` that the gate reads: q of the most probable class, or `BACKGROUND` where that is none.

    An RoI whose best guess is background always passes. No q equals 1, so that these RoIs can be
    told from the others in a stored label too.
    """
    best = class_logits.argmax(dim=1)
    quality = branch_logits.sigmoid().gather(1, best[:, None])[:, 0].clamp(max=_BELOW_ONE)
    return torch.where(best > 0, quality, torch.full_like(quality, BACKGROUND))


class IoUDetector(Detector):
    """A detector with the branch, whose weights are `iou_branch.*`."""

    def __init__(
        self, config: ModelConfig, num_classes: int, *, branch: IoUBranchConfig, target_threshold: float
    ) -> None:
        """Build a detector for `num_classes` classes without background.

        Raises CheckpointError where `config.weights` cannot be used, ConfigError for impossible branch inputs.
        """
        super().__init__(config, num_classes)
        self.iou_branch = IoUBranch(
            branch, feature_dim=config.box_head_dim, num_classes=num_classes, target_threshold=target_threshold
        )

    def quality(self, said: RoiScores) -> Tensor:
        """Return q of each RoI's most probable class, `[R]`; `BACKGROUND` where that is none."""
        return gate_quality(said.decided, self.iou_branch(said.shared, said.class_logits, said.box_deltas))


@dataclass(frozen=True, slots=True, eq=False)
class IoUPass:
    """The branch's losses of each image, all `[N]`."""

    loss: Tensor  # summed over the foreground RoIs
    positives: Tensor  # foreground RoIs whose decoded box is well placed: target 1
    count: Tensor  # int64 normaliser of `loss`: all sampled RoIs, or the foreground for the smooth L1 ablation
    foreground: Tensor  # int64 foreground RoIs


def iou_pass(detector: IoUDetector, roi: RoiPass, boxes: Sequence[Tensor]) -> IoUPass:
    """Compare what the branch says of the foreground RoIs (Eq. 2) with its targets (Eq. 3).

    `boxes[i]` `[G, 4]` are all true boxes of image i. The target looks at the *decoded* box, not at the RoI, and not
    clipped.
    """
    branch, said = detector.iou_branch, roi.scores
    logits = branch(said.shared[roi.fg_rows], said.class_logits[roi.fg_rows], said.box_deltas[roi.fg_rows])
    own = logits.gather(1, roi.labels[roi.fg_rows][:, None])[:, 0]
    decoded = torch.split(roi.coder.decode(roi.deltas.detach(), roi.fg_boxes), roi.fg_counts)
    best = branch.config.target_gt == "max"
    iou = torch.cat(
        [
            placement(part, each.matched, truth, best=best)
            for part, each, truth in zip(decoded, roi.rois, boxes, strict=True)
        ]
    )
    rows, targets = branch.loss_rows(own, iou)
    # An empty sum over the branch's output still gives every parameter of the branch a (zero) gradient.
    sums, positives = (losses.sum_per_image(each, roi.fg_counts) for each in (rows, targets))
    by_foreground = branch.config.loss == "smooth_l1"
    return IoUPass(sums, positives, roi.num_foreground if by_foreground else roi.num_rois, roi.num_foreground)


def iou_terms(found: IoUPass, batch: StudentBatch, group: str, prefix: str) -> dict[str, LossTerm]:
    """Return `prefix/iou`, and `prefix/iou_positive`, the share of targets that are 1: for the log, of weight 0."""
    part = batch.rows(group)
    return {
        f"{prefix}/iou": LossTerm(found.loss[part].sum(), found.count[part].sum(), group),
        f"{prefix}/iou_positive": LossTerm(found.positives[part].sum(), found.foreground[part].sum(), group),
    }


def placement(decoded: Tensor, matched: Tensor, truth: Tensor, *, best: bool) -> Tensor:
    """Return the IoU `[F]` of one image's decoded boxes `[F, 4]`, not clipped, with their ground truth; no gradient.

    `matched` `[F, 4]` are the boxes the RoIs are assigned to; with `best`, the best of `truth` `[G, 4]` counts (Eq. 3
    as written).
    """
    decoded = decoded.detach()
    if not best or len(decoded) == 0:
        return paired_iou(decoded, matched)
    rows, columns = len(decoded), len(truth)
    pairs = paired_iou(decoded.repeat_interleave(columns, dim=0), truth.repeat(rows, 1))
    return pairs.reshape(rows, columns).amax(dim=1)
