"""The detector. Defaults: Faster R-CNN as the papers train it on COCO (detectron2's setting, not torchvision's)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from raydet.config.backbone import (
    EFFICIENTNET,
    HOW_TO_CHOOSE,
    IMAGENET,
    SMALL,
    check_backbone,
    check_strides,
    default_anchors,
    default_strides,
)
from raydet.config.base import (
    Fraction,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Threshold,
    Weight,
)
from raydet.config.paths import PathText
from raydet.config.transfer import TransferSection

DetectorName = Literal["faster_rcnn", "mask_rcnn", "cascade_rcnn"]


class ModelConfig(TransferSection):
    """Faster R-CNN with FPN, and what was built on it."""

    detector: DetectorName = "faster_rcnn"
    """`faster_rcnn`, `mask_rcnn` (He et al., ICCV 2017: masks too, learned from labelled images that have them), or
    `cascade_rcnn` (Cai and Vasconcelos, CVPR 2018: several box heads, each on the boxes of the one before). Which of
    them a method allows: docs/detectors.md."""
    backbone: str = EFFICIENTNET
    """`efficientnet_lite0_fpn` (comes with ImageNet weights), `resnet18_fpn`, `resnet50_fpn`, `resnet101_fpn`
    (torchvision's), `timm/NAME` (a network of timm that gives a pyramid; wants the extra `timm`), or `small_gn` (group
    norm), which trains from scratch on a CPU."""
    weights: PathText | None = None
    """`imagenet`: published weights (torchvision's IMAGENET1K_V1 or timm's, downloaded once; those of
    `efficientnet_lite0_fpn` are installed with raydet, and its default). A local safetensors (or torch
    `weights_only`-loadable) file with the network's own names. `none`: from scratch. Only `small_gn` and
    `efficientnet_lite0_fpn` may leave it out. With weights, batch norms are frozen."""
    trainable_stages: NonNegativeInt = 3
    """With weights: how many of the backbone's stages train, from the top (3: those of strides 8, 16 and 32); 5 trains
    all."""
    fpn_strides: tuple[int, ...] = ()
    """Strides of the pyramid's levels, each twice the one before, of 4, 8, 16, 32 and 64 (which is for region proposals
    only). Default: 8 to 32 for `efficientnet_lite0_fpn` and `small_gn`, 4 to 64 for the others."""
    small_channels: tuple[PositiveInt, ...] = (16, 32, 64, 128, 128)
    """`small_gn`: channels of the stem and of the four stages."""
    fpn_channels: PositiveInt = 256
    """Channels of the feature pyramid."""
    fpn_norm: Literal["none", "batch", "group"] = "none"
    """Norm layers of the pyramid's convolutions, and of those of the box head `conv4_fc1`: none (torchvision's), batch
    norm (as SoCo and ADePT pre-train; needs several images a worker), or group norm with 32 groups."""
    box_head: Literal["two_fc", "conv4_fc1"] = "two_fc"
    """The box head: two fully connected layers, or four 3 x 3 convolutions and one (as SoCo and ADePT pre-train)."""
    box_head_dim: PositiveInt = 1024
    """Width of the fully connected layers of the box head."""
    anchor_sizes: tuple[tuple[PositiveFloat, ...], ...] = ()
    """Anchor sizes in pixels, one tuple per pyramid level, all of the same length. Default: from four levels on 8 times
    the stride, one each; fewer levels share 16, 32, ..., 512 out."""
    anchor_ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
    """Height / width of the anchors."""
    rpn_fg_iou: Threshold = 0.7
    """An anchor is foreground from this IoU on."""
    rpn_bg_iou: Threshold = 0.3
    """An anchor is background below this IoU."""
    rpn_batch: PositiveInt = 256
    """Anchors sampled per image; the RPN losses are divided by this number, sampled or not."""
    rpn_positive_fraction: Fraction = 0.25
    """Most positives among the sampled anchors."""
    rpn_nms: Threshold = 0.7
    """IoU of the proposals' NMS."""
    rpn_pre_nms_train: PositiveInt = 2000
    """Proposals per level kept before NMS, in training and for the teacher's labels."""
    rpn_pre_nms_test: PositiveInt = 1000
    """Proposals per level kept before NMS at evaluation."""
    rpn_post_nms_train: PositiveInt = 1000
    """Proposals per image kept after NMS, in training and for the teacher's labels."""
    rpn_post_nms_test: PositiveInt = 1000
    """Proposals per image kept after NMS at evaluation."""
    roi_batch: PositiveInt = 512
    """RoIs sampled per image."""
    roi_positive_fraction: Fraction = 0.25
    """Most foreground among the sampled RoIs."""
    roi_fg_iou: Threshold = 0.5
    """A proposal is foreground from this IoU on (u)."""
    cascade_ious: Annotated[tuple[Threshold, ...], Field(min_length=2)] = (0.5, 0.6, 0.7)
    """`cascade_rcnn`: from which IoU on a box is foreground, a number for each stage; takes the place of `roi_fg_iou`.
    Stage k encodes boxes with k times the weights (10, 10, 5, 5)."""
    cascade_loss_weights: tuple[Weight, ...] = (1.0, 1.0, 1.0)
    """`cascade_rcnn`: weight of each stage's losses; the paper's equation has none, mmdetection [1, 0.5, 0.25]."""
    mask_pool_size: PositiveInt = 14
    """`mask_rcnn`: RoIAlign's output side for the mask head; a mask has twice that side."""
    mask_head_convs: PositiveInt = 4
    """`mask_rcnn`: convolutions of the mask head."""
    mask_head_channels: PositiveInt = 256
    """`mask_rcnn`: their channels."""
    roi_pool_size: PositiveInt = 7
    """RoIAlign's output side."""
    roi_align_aligned: bool = True
    """RoIAlign with the half-pixel shift (detectron2); torchvision's own detector is False."""
    roi_sampling_ratio: NonNegativeInt = 0
    """RoIAlign samples per bin side; 0 adapts to the RoI (detectron2), torchvision's own detector uses 2."""
    compile: bool = False
    """While it trains and labels, run backbone, pyramid and region proposal head through torch.compile. The first steps
    take minutes, and a new size of views takes some again, until sizes are variables of what was compiled. On a CPU it
    wants a C++ compiler."""
    size_divisor: PositiveInt = 32
    """Views are padded with zeros, below and to the right, to sides that this divides; a multiple of 32. A larger one
    gives torch.compile and a GPU's convolutions fewer sizes to prepare for, and more pixels to compute. What is trained
    with one is to be used with the same: anchors on the padding count as background."""
    roi_cls_loss: Literal["focal", "cross_entropy"] = "focal"
    """RoI classification loss (Unbiased Teacher: focal)."""
    cls_focal_exponent: Weight = 1.5
    """Exponent of the focal RoI classification loss."""
    box_loss: Literal["l1", "smooth_l1"] = "l1"
    """Box regression loss of RPN and RoI head; smooth L1 uses torchvision's beta of 1/9."""
    test_score_floor: Fraction = 0.05
    """Detections at or below this score are not reported."""
    test_nms: Threshold = 0.5
    """IoU of the class-wise NMS of detections."""
    test_detections: PositiveInt = 100
    """Most detections per image."""

    @property
    def pooled_strides(self) -> tuple[int, ...]:
        """Strides of the feature maps that RoIs are pooled from: the first of the pyramid."""
        return tuple(stride for stride in self.fpn_strides if stride < 64)

    @field_validator("backbone")
    @classmethod
    def _known(cls, backbone: str) -> str:
        return check_backbone(backbone)

    @field_validator("size_divisor")
    @classmethod
    def _suits_the_strides(cls, divisor: int) -> int:
        if divisor % 32:
            raise ValueError(f"{divisor} is not a multiple of 32, the stride of the backbone's last stage")
        return divisor

    @model_validator(mode="after")
    def _weights_are_chosen(self) -> Self:
        if self.backbone == SMALL and self.weights is not None:
            raise ValueError(f"backbone {SMALL} trains from scratch: remove `weights`, or choose another backbone")
        if "weights" not in self.model_fields_set and self.takes("backbone"):
            self._fill(weights=None)
        elif "weights" not in self.model_fields_set:
            if self.backbone not in (SMALL, EFFICIENTNET):
                raise ValueError(f"backbone {self.backbone} without `weights`: {HOW_TO_CHOOSE}")
            self._fill(weights=IMAGENET if self.backbone == EFFICIENTNET else None)
        return self

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if not self.fpn_strides:
            self._fill(fpn_strides=default_strides(self.backbone))
        if not self.anchor_sizes:
            self._fill(anchor_sizes=default_anchors(self.fpn_strides))
        return self._checked_levels()

    def _checked_levels(self) -> Self:
        check_strides(self.backbone, self.fpn_strides)
        levels = len(self.fpn_strides)
        if len(self.anchor_sizes) != levels:
            raise ValueError(
                f"anchor_sizes has {len(self.anchor_sizes)} levels, backbone {self.backbone} has {levels} (strides "
                f"{list(self.fpn_strides)}); give one tuple of sizes per level"
            )
        if len({len(sizes) for sizes in self.anchor_sizes}) != 1 or not self.anchor_sizes[0]:
            raise ValueError("anchor_sizes: every level needs equally many sizes, at least one")
        return self

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        if len(self.small_channels) != 5:
            raise ValueError("small_channels wants five numbers: the stem and four stages")
        if min(self.small_channels) < 8:  # of fewer, PyTorch 2.14 crashes in a backward pass
            raise ValueError(f"small_channels wants 8 or more each, got {min(self.small_channels)}")
        self._check_heads()
        if self.rpn_bg_iou > self.rpn_fg_iou:
            raise ValueError(f"rpn_bg_iou {self.rpn_bg_iou} must not exceed rpn_fg_iou {self.rpn_fg_iou}")
        return self

    def _check_heads(self) -> None:
        """Raise ValueError for settings of the heads that do not fit each other, or the detector."""
        fields = type(self).model_fields
        of_others = ("roi_fg_iou",) if self.detector == "cascade_rcnn" else ("cascade_ious", "cascade_loss_weights")
        of_masks = ("mask_pool_size", "mask_head_convs", "mask_head_channels")
        for key in of_masks if self.detector != "mask_rcnn" else ():
            if getattr(self, key) != fields[key].default:
                raise ValueError(
                    f"{key} does nothing with detector={self.detector}: remove it, or set detector: mask_rcnn"
                )
        for key in of_others:
            if getattr(self, key) != fields[key].default:
                instead = "set cascade_ious" if key == "roi_fg_iou" else "remove it, or set detector: cascade_rcnn"
                raise ValueError(f"{key} does nothing with detector={self.detector}: {instead}")
        if len(self.cascade_loss_weights) != len(self.cascade_ious):
            raise ValueError(
                f"cascade_loss_weights has {len(self.cascade_loss_weights)} numbers, cascade_ious "
                f"{len(self.cascade_ious)}: give one of each per stage"
            )
        if list(self.cascade_ious) != sorted(self.cascade_ious):
            raise ValueError(f"cascade_ious={list(self.cascade_ious)}: no stage may ask for less than the one before")
