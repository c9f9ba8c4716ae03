"""The detector. Defaults: Faster R-CNN as the papers train it on COCO (detectron2's setting, not torchvision's)."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from raydet.config.base import (
    Fraction,
    ModelSection,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Threshold,
    Weight,
)


class ModelConfig(ModelSection):
    """Faster R-CNN with FPN."""

    backbone: Literal["resnet50_fpn", "resnet101_fpn", "resnet18_fpn", "small_gn"] = "resnet50_fpn"
    """ResNets carry frozen batch norm and want `weights`; `small_gn` (group norm) trains from scratch on a CPU."""
    weights: str | None = None
    """Local safetensors (or torch `weights_only`-loadable) file of ImageNet weights for the ResNet body, with
    torchvision's names."""
    trainable_stages: NonNegativeInt = 3
    """How many of the ResNet's four stages train, from the top (3 freezes stem and first stage); 5 trains all."""
    small_channels: tuple[PositiveInt, ...] = (16, 32, 64, 128, 128)
    """`small_gn`: channels of the stem and of the four stages."""
    fpn_channels: PositiveInt = 256
    """Channels of the feature pyramid."""
    box_head_dim: PositiveInt = 1024
    """Width of the two fully connected layers of the box head."""
    anchor_sizes: tuple[tuple[PositiveFloat, ...], ...] = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    """Anchor sizes in pixels, one tuple per pyramid level (ResNets: 5 levels, `small_gn`: 3)."""
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
    roi_pool_size: PositiveInt = 7
    """RoIAlign's output side."""
    roi_align_aligned: bool = True
    """RoIAlign with the half-pixel shift (detectron2); torchvision's own detector is False."""
    roi_sampling_ratio: NonNegativeInt = 0
    """RoIAlign samples per bin side; 0 adapts to the RoI (detectron2), torchvision's own detector uses 2."""
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

    @model_validator(mode="after")
    def _anchor_levels(self) -> ModelConfig:
        levels = 3 if self.backbone == "small_gn" else 5
        if len(self.anchor_sizes) != levels:
            raise ValueError(
                f"anchor_sizes has {len(self.anchor_sizes)} levels, backbone {self.backbone} has {levels}; "
                f"give one tuple of sizes per level"
            )
        if self.backbone == "small_gn" and self.weights is not None:
            raise ValueError("backbone small_gn trains from scratch: remove `weights` or choose a ResNet")
        if len(self.small_channels) != 5:
            raise ValueError("small_channels wants five numbers: the stem and four stages")
        if self.rpn_bg_iou > self.rpn_fg_iou:
            raise ValueError(f"rpn_bg_iou {self.rpn_bg_iou} must not exceed rpn_fg_iou {self.rpn_fg_iou}")
        return self
