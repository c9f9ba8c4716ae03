"""Our Mask R-CNN against torchvision's own, with the same weights, images, masks and random draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import maskrcnn_loss, paste_masks_in_image
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from raydet.config.detector import ModelConfig
from raydet.families.detection.gates import after_nms
from raydet.families.detection.mask_pass import mask_pass
from raydet.families.detection.passes import train_pass
from raydet.records import Candidates, Target
from raydet.vision.backbones import build_backbone
from raydet.vision.detector import Detector
from raydet.vision.images import collate
from raydet.vision.mask_head import MaskHeads
from raydet.vision.masks import decoded, packed, pasted
from tests.parity.torchvision_sampling import draw_alike

HEIGHT, WIDTH, CLASSES = 96, 128, 3


def config(**changes: object) -> ModelConfig:
    settings = {
        "detector": "mask_rcnn",
        "rpn_positive_fraction": 0.5,
        "rpn_post_nms_train": 2000,
        "roi_align_aligned": False,
        "roi_sampling_ratio": 2,
        "roi_cls_loss": "cross_entropy",
        "box_loss": "smooth_l1",
        "backbone": "small_gn",
        "weights": None,
        "fpn_channels": 32,
        "box_head_dim": 64,
        "mask_head_channels": 16,
        "mask_head_convs": 2,
        "anchor_sizes": ((16.0,), (32.0,), (64.0,)),
        "rpn_batch": 64,
        "roi_batch": 64,
    }
    return ModelConfig.model_validate({**settings, **changes})


def torchvision_detector(config: ModelConfig) -> MaskRCNN:
    """Return torchvision's MaskRCNN of the same shape; images of HEIGHT x WIDTH are not resized."""
    levels, channels = ["0", "1", "2"], config.mask_head_channels
    return MaskRCNN(
        build_backbone(config),
        min_size=HEIGHT,
        max_size=WIDTH,
        rpn_anchor_generator=AnchorGenerator(config.anchor_sizes, (config.anchor_ratios,) * 3),
        rpn_head=RPNHead(config.fpn_channels, 3),
        rpn_batch_size_per_image=config.rpn_batch,
        box_batch_size_per_image=config.roi_batch,
        box_roi_pool=MultiScaleRoIAlign(levels, 7, 2),
        box_head=TwoMLPHead(config.fpn_channels * 49, config.box_head_dim),
        box_predictor=FastRCNNPredictor(config.box_head_dim, CLASSES + 1),
        mask_roi_pool=MultiScaleRoIAlign(levels, 14, 2),
        mask_head=MaskRCNNHeads(config.fpn_channels, (channels,) * config.mask_head_convs, 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, CLASSES + 1),
        _skip_resize=True,
    )


def twins() -> tuple[Detector, MaskRCNN]:
    torch.manual_seed(0)
    ours, theirs = Detector(config(), CLASSES), torchvision_detector(config())
    heads = ours.roi_heads
    for layer, std in (
        (heads.box_predictor.cls_score, 0.3),
        (heads.box_predictor.bbox_pred, 0.05),
        (ours.rpn.head.cls_logits, 0.3),
        (heads.mask_predictor.mask_fcn_logits, 0.3),
    ):
        torch.nn.init.normal_(layer.weight, std=std)
    theirs.load_state_dict(ours.state_dict(), strict=True)  # the keys are torchvision's
    theirs.to(memory_format=torch.channels_last)
    return ours, theirs


def images() -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    return list(torch.randint(0, 256, (2, 3, HEIGHT, WIDTH), generator=rng, dtype=torch.uint8))


def disc(box: list[float]) -> Tensor:
    """The ellipse that fills a box, as a mask of the image."""
    x1, y1, x2, y2 = box
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    return ((x - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((y - (y1 + y2) / 2) / (y2 - y1)) ** 2 < 0.25


def target(boxes: list[list[float]], classes: list[int], known: list[bool] | None = None) -> Target:
    found = Target.truth(torch.tensor(boxes).reshape(-1, 4), torch.tensor(classes, dtype=torch.int64))
    masks = torch.stack([disc(box) for box in boxes]) if boxes else torch.zeros(0, HEIGHT, WIDTH, dtype=torch.bool)
    drawn = torch.tensor(known if known is not None else [True] * len(boxes), dtype=torch.bool)
    return Target(found.boxes, found.classes, found.scores, found.quality, masks=packed(masks, drawn))


BOXES = [[[10.0, 10.0, 50.0, 60.0], [40.0, 20.0, 120.0, 90.0]], [[5.0, 30.0, 35.0, 55.0]]]
TARGETS = [target(BOXES[0], [0, 2]), target(BOXES[1], [1])]


def truth(targets: list[Target]) -> list[dict[str, Tensor]]:
    masks = [torch.stack([disc(box) for box in each.boxes.tolist()]) for each in targets]
    return [
        {"boxes": each.boxes, "labels": each.classes + 1, "masks": mask.to(torch.uint8)}
        for each, mask in zip(targets, masks, strict=True)
    ]


def test_training_losses_and_gradients_equal_torchvisions_with_the_same_draws(monkeypatch: pytest.MonkeyPatch):
    draw_alike(monkeypatch)
    ours, theirs = twins()
    torch.manual_seed(7)
    expected = theirs.train()([image.float() / 255 for image in images()], truth(TARGETS))
    torch.manual_seed(7)
    passed = train_pass(ours.train(), collate(images(), "cpu"), TARGETS, [torch.default_generator] * 2)
    names = {
        "loss_objectness": "rpn_cls",
        "loss_rpn_box_reg": "rpn_reg",
        "loss_classifier": "roi_cls",
        "loss_box_reg": "roi_reg",
        "loss_mask": "mask",
    }
    found = {name: passed.sums[own].sum() / passed.counts[own].sum() for name, own in names.items()}
    assert int(passed.counts["mask"].sum()) == int(passed.roi.num_foreground.sum()) > 10
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    sum(expected.values()).backward()
    sum(found.values()).backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_the_mask_loss_is_torchvisions_function_of_the_same_rows():
    ours, _ = twins()
    batch = collate(images(), "cpu")
    passed = train_pass(ours.train(), batch, TARGETS, [torch.Generator().manual_seed(n) for n in range(2)])
    roi = passed.roi
    boxes = list(torch.split(roi.fg_boxes, roi.fg_counts))
    owners = [each.matched_rows for each in roi.rois]
    expected = maskrcnn_loss(
        ours.roi_heads.mask_logits(passed.features, boxes),
        boxes,
        [each["masks"] for each in truth(TARGETS)],
        [each["labels"] for each in truth(TARGETS)],
        owners,
    )
    torch.testing.assert_close(passed.sums["mask"].sum() / passed.counts["mask"].sum(), expected)


def test_an_object_without_a_mask_trains_its_box_alone():
    ours, _ = twins()
    batch, rngs = collate(images(), "cpu"), lambda: [torch.Generator().manual_seed(n) for n in range(2)]
    half = [target(BOXES[0], [0, 2], [True, False]), TARGETS[1]]
    full, found = train_pass(ours.train(), batch, TARGETS, rngs()), train_pass(ours.train(), batch, half, rngs())
    of_first = int((full.roi.rois[0].matched_rows == 0).sum())
    assert found.counts["mask"].tolist() == [of_first, int(full.counts["mask"][1])]
    assert 0 < of_first < int(full.counts["mask"][0])
    torch.testing.assert_close(found.sums["roi_cls"], full.sums["roi_cls"])
    torch.testing.assert_close(found.sums["mask"][1], full.sums["mask"][1])


def test_images_without_objects_have_a_mask_loss_of_zero_on_the_graph():
    ours, _ = twins()
    empty = [target([], []), target([], [])]
    found = train_pass(ours.train(), collate(images(), "cpu"), empty, [torch.Generator() for _ in range(2)])
    assert found.sums["mask"].tolist() == [0.0, 0.0] and found.counts["mask"].tolist() == [0, 0]
    found.sums["mask"].sum().backward()
    assert float(ours.roi_heads.mask_predictor.mask_fcn_logits.weight.grad.abs().max()) == 0


def test_targets_that_were_made_without_masks_are_refused():
    ours, _ = twins()
    bare = [Target.truth(each.boxes, each.classes) for each in TARGETS]
    with pytest.raises(ValueError, match="a target without masks"):
        train_pass(ours, collate(images(), "cpu"), bare, [torch.Generator() for _ in range(2)])


def test_detections_and_masks_equal_torchvisions():
    ours, theirs = twins()
    with torch.no_grad():
        expected = theirs.eval()([image.float() / 255 for image in images()])
    batch = collate(images(), "cpu")
    said = ours.eval().candidates(batch, proposals="test", score_floor=0.05, top_k=10**6)
    heads = ours.roi_heads
    assert isinstance(heads, MaskHeads)
    with torch.no_grad():
        found = heads.with_masks(ours.features(batch), [after_nms(each, 0.5, 100) for each in said])
    for mine, other in zip(found, expected, strict=True):
        assert len(mine) > 10 and mine.masks is not None
        torch.testing.assert_close(mine.boxes, other["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(mine.classes + 1, other["labels"])
        theirs_pasted = paste_masks_in_image(mine.masks[:, None], mine.boxes, (HEIGHT, WIDTH))
        torch.testing.assert_close(theirs_pasted, other["masks"], rtol=1e-3, atol=1e-3)


def test_pasted_masks_are_torchvisions_to_within_a_pixel_at_their_rims():
    # Ours are placed to a part of a pixel, theirs in whole pixels.
    boxes = torch.tensor([[10.3, 20.7, 70.2, 80.9], [-5.0, 40.0, 60.5, 110.0], [90.0, 5.0, 126.4, 90.2]])
    y, x = torch.meshgrid(torch.arange(28) + 0.5, torch.arange(28) + 0.5, indexing="ij")
    smooth = torch.sigmoid(10 - ((x - 14) ** 2 + (y - 14) ** 2).sqrt()).expand(
        3, 28, 28
    )  # .5 at 10 cells from the middle
    ours = decoded(pasted(smooth, boxes, HEIGHT, WIDTH), HEIGHT, WIDTH)
    theirs = paste_masks_in_image(smooth[:, None], boxes, (HEIGHT, WIDTH))[:, 0] >= 0.5
    for mine, other, box in zip(ours, theirs, boxes.tolist(), strict=True):
        overlap, union = (mine & other).sum(), (mine | other).sum()
        assert float(overlap) / float(union) > 0.92
        if box[0] >= 0 and box[3] <= HEIGHT:  # a whole ellipse of half axes 10 / 28 of the box's sides
            area = np.pi * (10 / 28) ** 2 * (box[2] - box[0]) * (box[3] - box[1])
            assert float(mine.sum()) == pytest.approx(area, rel=0.03)


def test_a_resnet50_detector_has_the_keys_and_shapes_of_torchvisions_resnet50_mask_rcnn():
    with torch.device("meta"):
        ours = Detector(
            ModelConfig(detector="mask_rcnn", backbone="resnet50_fpn", weights="none"), CLASSES
        ).state_dict()
        theirs = maskrcnn_resnet50_fpn(num_classes=CLASSES + 1, weights=None, weights_backbone=None).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}


def test_the_mask_of_a_detection_is_that_of_its_own_class():
    ours, _ = twins()
    heads = ours.roi_heads
    assert isinstance(heads, MaskHeads)
    with torch.no_grad():
        heads.mask_predictor.mask_fcn_logits.weight.zero_()
        heads.mask_predictor.mask_fcn_logits.bias.copy_(torch.tensor([9.0, -2.0, 0.0, 2.0]))
    boxes = torch.tensor([[10.0, 10.0, 50.0, 60.0]] * 3)
    plain = Candidates(boxes, torch.tensor([2, 0, 1]), torch.ones(3), torch.ones(3), 0.0)
    (found,) = heads.with_masks(ours.features(collate(images()[:1], "cpu")), [plain])
    assert found.masks is not None and found.masks.shape == (3, 28, 28)
    # sigmoid(2) = .8808, sigmoid(-2) = .1192, sigmoid(0) = .5; background's 9 is nowhere
    assert found.masks.amax(dim=(1, 2)).tolist() == pytest.approx([0.8808, 0.1192, 0.5], abs=1e-4)
    assert np.ptp(found.masks[0].numpy()) < 1e-6


def test_the_loss_of_a_fixed_answer_is_the_cross_entropy_of_the_masks_cells():
    # Every logit is 0: -ln(1 / 2) = .6931 whatever the target.
    ours, _ = twins()
    with torch.no_grad():
        ours.roi_heads.mask_predictor.mask_fcn_logits.weight.zero_()
        ours.roi_heads.mask_predictor.mask_fcn_logits.bias.zero_()
    passed = train_pass(ours.train(), collate(images(), "cpu"), TARGETS, [torch.Generator() for _ in range(2)])
    heads = ours.roi_heads
    assert isinstance(heads, MaskHeads)
    found = mask_pass(heads, passed.features, passed.roi, TARGETS)
    assert (found.loss / found.count).tolist() == pytest.approx([0.6931, 0.6931], abs=1e-4)
