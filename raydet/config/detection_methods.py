"""The detection methods: one config class each. Defaults are the paper's setting (Greek letter in parentheses)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from raydet.config.base import Fraction, PositiveInt, Section, Threshold, Weight
from raydet.config.method import TeacherSection

BranchInput = Literal["roi_features", "class_logits", "box_deltas"]


class IoUBranchConfig(Section):
    """The box-quality classifier of IL-net (section 3.2) and the switches of its ablations."""

    inputs: tuple[BranchInput, ...] = ("roi_features", "class_logits")
    """What the branch reads (Table 5); `roi_features` is mandatory. The final IL-net leaves `box_deltas` out."""
    hidden: PositiveInt = 1024
    """Width of the hidden layer."""
    activation: Literal["elu", "none"] = "elu"
    """Between the two layers."""
    detach_inputs: bool = False
    """Stop the branch's gradient at its inputs (not in the paper)."""
    loss: Literal["focal_bce", "smooth_l1", "focal_soft"] = "focal_bce"
    """Loss of the branch: binary focal (Eq. 2), smooth L1 on the IoU (Fig. 3b), or focal with the IoU as target."""
    focal_exponent: Weight = 1.5
    """Exponent of the branch's focal loss (the paper's second gamma)."""
    target_gt: Literal["matched", "max"] = "matched"
    """IoU target against the RoI's matched box (published code) or the best box of the image (Eq. 3 as written)."""


class SupervisedConfig(TeacherSection):
    """Labelled images only. After `burn_in_steps` an EMA of the student is kept, so that it compares like with like."""

    uses_labels: ClassVar[bool] = False
    name: Literal["supervised"] = "supervised"
    iou_branch: IoUBranchConfig | None = None
    """Train IL-net's IoU branch too; needed where an IL-net run is forked from this run's burn-in."""
    iou_target_threshold: Threshold = 0.75
    """IoU above which a box counts as well localized (mu), for the branch's target."""
    sup_iou_weight: Weight = 1.0
    """Weight of the IoU-branch loss."""


class _MutualConfig(TeacherSection):
    score_threshold: Fraction = 0.7
    """Class confidence a pseudo-box must exceed, strictly."""
    unsup_cls_weight: Weight = 4.0
    """Weight of the unsupervised RPN and RoI classification losses (alpha)."""
    teacher_proposals: Literal["train", "test"] = "train"
    """Whose proposal counts the teacher labels with: training's (Unbiased Teacher's code) or evaluation's."""
    alarm_after_steps: PositiveInt = 200
    """Warn, with the likely cause, when no pseudo-box survives for so many steps in a row."""


class UnbiasedTeacherConfig(_MutualConfig):
    """Unbiased Teacher (Liu et al., ICLR 2021): no regression on pseudo-boxes."""

    name: Literal["unbiased_teacher"] = "unbiased_teacher"


class IlNetConfig(_MutualConfig):
    """IL-net (arXiv 2206.10186)."""

    name: Literal["il_net"] = "il_net"
    unsup_reg_weight: Weight = 1.0
    """Weight of the unsupervised RPN and RoI box regression (beta); 0 is Unbiased Teacher."""
    unsup_iou_weight: Weight = 4.0
    """Weight of the unsupervised IoU-branch loss (gamma of Eq. 1)."""
    sup_iou_weight: Weight = 1.0
    """Weight of the supervised IoU-branch loss."""
    iou_branch_enabled: bool = True
    """Build and train the IoU branch."""
    iou_branch: IoUBranchConfig = IoUBranchConfig()
    """The branch itself."""
    iou_target_threshold: Threshold = 0.75
    """IoU of the decoded box above which the branch's target is 1 (mu)."""
    iou_filter_enabled: bool = True
    """Gate the predictions by the branch, in pseudo-labelling and in evaluation."""
    iou_filter_threshold: Threshold = 0.4
    """IoU score that a foreground prediction must exceed, strictly, to survive (theta)."""


DetectionMethodConfig = Annotated[SupervisedConfig | UnbiasedTeacherConfig | IlNetConfig, Field(discriminator="name")]
