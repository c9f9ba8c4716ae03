"""The mask branch against torchvision's, with the same weights, images and random draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from raydet.families.detection.gates import after_nms
from raydet.families.detection.passes import train_pass
from raydet.records import Target
from raydet.vision.backbones import build_backbone
from raydet.vision.images import collate
from raydet.vision.masks import MaskDetector, mask_rows, mask_targets, pasted
from tests.parity.test_torchvision_parity import CLASSES, HEIGHT, WIDTH, images, like_torchvision

LEVELS = ["0", "1", "2"]
TARGETS = [
    Target.truth(torch.tensor([[10.0, 10.0, 50.0, 60.0], [40.0, 20.0, 120.0, 90.0]]), torch.tensor([0, 2])),
    Target.truth(torch.tensor([[5.0, 30.0, 35.0, 55.0]]), torch.tensor([1])),
]


def twins() -> tuple[MaskDetector, MaskRCNN]:
    torch.manual_seed(0)
    config = like_torchvision("small_gn")
    ours = MaskDetector(config, CLASSES)
    theirs = MaskRCNN(
        build_backbone(config),
        min_size=HEIGHT,
        max_size=WIDTH,
        rpn_anchor_generator=AnchorGenerator(config.anchor_sizes, (config.anchor_ratios,) * 3),
        rpn_head=RPNHead(config.fpn_channels, 3),
        rpn_batch_size_per_image=config.rpn_batch,
        box_batch_size_per_image=config.roi_batch,
        box_roi_pool=MultiScaleRoIAlign(LEVELS, 7, 2),
        box_head=TwoMLPHead(config.fpn_channels * 49, config.box_head_dim),
        box_predictor=FastRCNNPredictor(config.box_head_dim, CLASSES + 1),
        mask_roi_pool=MultiScaleRoIAlign(LEVELS, 14, 2),
        mask_head=MaskRCNNHeads(config.fpn_channels, (256,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(256, 256, CLASSES + 1),
        _skip_resize=True,
    )
    torch.nn.init.normal_(ours.roi_heads.box_predictor.cls_score.weight, std=0.3)
    torch.nn.init.normal_(ours.roi_heads.box_predictor.bbox_pred.weight, std=0.05)
    torch.nn.init.normal_(ours.rpn.head.cls_logits.weight, std=0.3)
    torch.nn.init.normal_(ours.roi_heads.mask_predictor.mask_fcn_logits.weight, std=0.3)
    theirs.load_state_dict(ours.state_dict(), strict=True)  # the keys are torchvision's
    theirs.to(memory_format=torch.channels_last)
    return ours, theirs


def discs(target: Target) -> Tensor:
    """An ellipse in each box, `[G, H, W]` of 0 and 1."""
    y, x = torch.arange(HEIGHT)[:, None] + 0.5, torch.arange(WIDTH) + 0.5
    found = []
    for x1, y1, x2, y2 in target.boxes.tolist():
        across, down = (x - (x1 + x2) / 2) / (x2 - x1) * 2, (y - (y1 + y2) / 2) / (y2 - y1) * 2
        found.append(across**2 + down**2 <= 1)
    return torch.stack(found).to(torch.uint8)


def test_the_mask_loss_equals_torchvisions_with_the_same_seed():
    ours, theirs = twins()
    pixels, objects = images(), [discs(target) for target in TARGETS]
    torch.manual_seed(7)
    expected = theirs.train()(
        [image.float() / 255 for image in pixels],
        [
            {"boxes": target.boxes, "labels": target.classes + 1, "masks": masks}
            for target, masks in zip(TARGETS, objects, strict=True)
        ],
    )["loss_mask"]
    torch.manual_seed(7)
    passed = train_pass(ours.train(), collate(pixels, "cpu"), TARGETS, [torch.default_generator] * 2)
    roi = passed.roi
    rois = [each.boxes[: each.num_foreground] for each in roi.rois]
    logits = ours.mask_logits(passed.features, rois, roi.labels[roi.fg_rows])
    wanted = []
    for each, boxes, target, masks in zip(roi.rois, rois, TARGETS, objects, strict=True):
        owner = (each.matched[:, None] == target.boxes[None]).all(dim=2).int().argmax(dim=1)
        wanted.append(mask_targets(masks, owner, boxes))
    rows = mask_rows(logits, torch.cat(wanted))
    assert len(rows) > 10
    torch.testing.assert_close(rows.mean(), expected, rtol=1e-4, atol=1e-6)

    expected.backward()
    rows.mean().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert ours.roi_heads.mask_head[0][0].weight.grad.abs().sum() > 0


@torch.no_grad()
def test_detections_and_their_masks_equal_torchvisions():
    ours, theirs = twins()
    pixels = images()
    expected = theirs.eval()([image.float() / 255 for image in pixels])
    batch = collate(pixels, "cpu")
    features = ours.eval().features(batch)
    found = ours.candidates_in(features, batch, proposals="test", score_floor=0.05, top_k=10**6)
    found = [after_nms(each, 0.5, 100) for each in found]
    masks = ours.masks(features, [each.boxes for each in found], torch.cat([each.classes for each in found]))
    for each, own, other in zip(found, masks.split([len(each) for each in found]), expected, strict=True):
        assert len(each) > 10
        torch.testing.assert_close(each.boxes, other["boxes"], rtol=1e-4, atol=1e-3)
        theirs_on = other["masks"][:, 0] >= 0.5
        agree = pasted(own, each.boxes, (HEIGHT, WIDTH)) == theirs_on
        assert agree.float().mean() > 0.9999 and 0.001 < theirs_on.float().mean() < 0.9


def test_a_target_is_the_part_of_the_object_inside_its_roi():
    # The object has columns 0 to 19 of 40: 10 of the 28 columns of an RoI from column 10 to 38.
    objects = torch.zeros(2, 40, 40, dtype=torch.uint8)
    objects[1, :, :20] = 1
    found = mask_targets(objects, torch.tensor([1, 0]), torch.tensor([[10.0, 5.0, 38.0, 33.0]] * 2))
    assert found[0].sum(dim=1).tolist() == pytest.approx([10.0] * 28, abs=0.51)
    assert found[1].sum() == 0
