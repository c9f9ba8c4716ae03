"""The loss of Mask R-CNN's mask head (He et al., ICCV 2017, section 3).

    L_mask = mean over foreground RoIs of the mean over M x M cells of the binary cross-entropy of the own class's mask

The targets are the true masks, cut out and shrunk by RoIAlign. RoIs whose object has no mask are left out; so is
background. This is torchvision's `maskrcnn_loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from raydet.records import Target
from raydet.vision import losses
from raydet.vision.device import to_device
from raydet.vision.mask_head import MaskHeads
from raydet.vision.masks import targets_in, unpacked

if TYPE_CHECKING:
    from raydet.families.detection.passes import RoiPass


@dataclass(frozen=True, slots=True, eq=False)
class MaskPass:
    """The mask losses of each image, both `[N]`."""

    loss: Tensor  # summed over its RoIs with a mask to learn
    count: Tensor  # int64: how many these are


def mask_pass(heads: MaskHeads, features: dict[str, Tensor], roi: RoiPass, targets: Sequence[Target]) -> MaskPass:
    """Compare what the head says of the foreground RoIs with the masks of their objects.

    Raises ValueError for a target that was made without masks.
    """
    side = 2 * heads.config.mask_pool_size
    own_classes = torch.split(roi.labels[roi.fg_rows], roi.fg_counts)
    drawn, classes, wanted = [], [], []
    for boxes, labels, objects, target in zip(
        torch.split(roi.fg_boxes, roi.fg_counts), own_classes, _objects(roi), targets, strict=True
    ):
        if target.masks is None:
            raise ValueError("a target without masks: the data was read without them")
        known = torch.where(target.masks.known[objects])[0]
        used, owners = torch.unique(objects[known], return_inverse=True)
        rows, owners = to_device(known, boxes.device), to_device(owners, boxes.device)
        masks = to_device(unpacked(target.masks.where(used)), boxes.device)
        drawn.append(boxes[rows])
        classes.append(labels[rows])
        wanted.append(targets_in(masks, owners, boxes[rows], side, aligned=heads.config.roi_align_aligned))
    counts = [len(each) for each in drawn]
    logits = heads.mask_logits(features, drawn)
    rows = torch.arange(len(logits), device=logits.device)
    said, true = logits[rows, torch.cat(classes)], torch.cat(wanted)
    each = functional.binary_cross_entropy_with_logits(said, true, reduction="none").mean(dim=(1, 2))
    return MaskPass(losses.sum_per_image(each, counts), to_device(torch.tensor(counts), logits.device))


def _objects(roi: RoiPass) -> tuple[Tensor, ...]:
    """Return which of its image's objects each foreground RoI belongs to, image by image, where the masks lie."""
    rows = [each.matched_rows for each in roi.rois]
    return torch.split(torch.cat([each for each in rows if each is not None]).cpu(), roi.fg_counts)
