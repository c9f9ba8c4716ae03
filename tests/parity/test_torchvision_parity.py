"""Our detector against torchvision's own, with the same weights, images and random draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign, roi_align

from raydet.config.detector import ModelConfig
from raydet.families.detection.config import IoUBranchConfig
from raydet.families.detection.gates import after_nms
from raydet.families.detection.iou_branch import IoUDetector
from raydet.families.detection.passes import train_pass
from raydet.records import Target
from raydet.vision import roi_products
from raydet.vision.backbones import build_backbone
from raydet.vision.detector import Detector
from raydet.vision.images import collate
from raydet.vision.roi_pooling import pool_rois
from raydet.vision.weights import weights_of
from tests.parity.torchvision_sampling import draw_alike

HEIGHT, WIDTH, CLASSES = 96, 128, 3

TORCHVISION_SETTINGS = {
    "rpn_positive_fraction": 0.5,
    "rpn_post_nms_train": 2000,
    "roi_align_aligned": False,
    "roi_sampling_ratio": 2,
    "roi_cls_loss": "cross_entropy",
    "box_loss": "smooth_l1",
}


def like_torchvision(backbone: str) -> ModelConfig:
    levels = 3 if backbone == "small_gn" else 5
    return ModelConfig.model_validate(
        {
            **TORCHVISION_SETTINGS,
            "backbone": backbone,
            "weights": None,
            "fpn_channels": 32,
            "box_head_dim": 64,
            "anchor_sizes": tuple((float(16 * 2**i),) for i in range(levels)),
            "rpn_batch": 64,
            "roi_batch": 64,
        }
    )


def torchvision_detector(config: ModelConfig) -> FasterRCNN:
    """Return torchvision's FasterRCNN of the same shape; images of HEIGHT x WIDTH are not resized."""
    anchors = AnchorGenerator(config.anchor_sizes, (config.anchor_ratios,) * len(config.anchor_sizes))
    levels = ["0", "1", "2"] if config.backbone == "small_gn" else ["0", "1", "2", "3"]
    return FasterRCNN(
        build_backbone(config),
        min_size=HEIGHT,
        max_size=WIDTH,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(config.fpn_channels, 3),
        rpn_batch_size_per_image=config.rpn_batch,
        box_batch_size_per_image=config.roi_batch,
        box_roi_pool=MultiScaleRoIAlign(levels, 7, 2),
        box_head=TwoMLPHead(config.fpn_channels * 49, config.box_head_dim),
        box_predictor=FastRCNNPredictor(config.box_head_dim, CLASSES + 1),
        _skip_resize=True,
    )


def twins(backbone: str) -> tuple[Detector, FasterRCNN]:
    torch.manual_seed(0)
    config = like_torchvision(backbone)
    ours, theirs = Detector(config, CLASSES), torchvision_detector(config)
    # Scores that differ: with the initial weights all detections would tie.
    torch.nn.init.normal_(ours.roi_heads.box_predictor.cls_score.weight, std=0.3)
    torch.nn.init.normal_(ours.roi_heads.box_predictor.bbox_pred.weight, std=0.05)
    torch.nn.init.normal_(ours.rpn.head.cls_logits.weight, std=0.3)
    theirs.load_state_dict(ours.state_dict(), strict=True)  # the keys are torchvision's
    theirs.to(memory_format=torch.channels_last)  # as ours: in another layout sums round otherwise, and ties break
    return ours, theirs


def images() -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    shape = (2, 3, HEIGHT, WIDTH)
    return list(torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8))


TARGETS = [
    Target.truth(torch.tensor([[10.0, 10.0, 50.0, 60.0], [40.0, 20.0, 120.0, 90.0]]), torch.tensor([0, 2])),
    Target.truth(torch.tensor([[5.0, 30.0, 35.0, 55.0]]), torch.tensor([1])),
]


@pytest.mark.parametrize("backbone", ["small_gn", "resnet18_fpn"])
@pytest.mark.parametrize("targets", [TARGETS, [TARGETS[0], Target.empty()]], ids=["boxes", "one empty"])
def test_training_losses_equal_torchvisions_with_the_same_draws(
    backbone: str, targets: list[Target], monkeypatch: pytest.MonkeyPatch
):
    draw_alike(monkeypatch)
    ours, theirs = twins(backbone)
    pixels = images()
    pixels[1] = pixels[1][:, :70, :100]  # padded on the right and below
    torch.manual_seed(7)
    expected = theirs.train()(
        [image.float() / 255 for image in pixels],
        [{"boxes": target.boxes, "labels": target.classes + 1} for target in targets],
    )
    torch.manual_seed(7)
    passed = train_pass(ours.train(), collate(pixels, "cpu"), targets, [torch.default_generator] * 2)
    found = {
        "loss_objectness": passed.rpn.cls.sum() / passed.rpn.anchors.sum(),
        "loss_rpn_box_reg": passed.rpn.reg.sum() / passed.rpn.anchors.sum(),
        "loss_classifier": passed.roi.cls().sum() / passed.roi.num_rois.sum(),
        "loss_box_reg": passed.roi.reg().sum() / passed.roi.num_rois.sum(),
    }
    assert passed.roi.num_foreground.sum() > 0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)

    sum(expected.values()).backward()
    sum(found.values()).backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("backbone", ["small_gn", "resnet18_fpn"])
def test_detections_equal_torchvisions(backbone: str):
    ours, theirs = twins(backbone)
    pixels = images()
    with torch.no_grad():
        expected = theirs.eval()([image.float() / 255 for image in pixels])
    found = ours.eval().candidates(collate(pixels, "cpu"), proposals="test", score_floor=0.05, top_k=10**6)
    for candidates, other in zip(found, expected, strict=True):
        mine = after_nms(candidates, 0.5, 100)
        assert len(mine) > 10
        torch.testing.assert_close(mine.boxes, other["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(mine.classes + 1, other["labels"])
        torch.testing.assert_close(mine.scores, other["scores"], rtol=1e-4, atol=1e-5)


def test_a_detectors_standard_parts_load_into_plain_torchvision():
    config = like_torchvision("resnet18_fpn")
    teacher = IoUDetector(config, CLASSES, branch=IoUBranchConfig(hidden=8), target_threshold=0.75)
    weights = dict(weights_of(teacher))
    standard = {name: value for name, value in weights.items() if not name.startswith("iou_branch.")}
    assert len(weights) - len(standard) == 4  # two layers with weight and bias
    torchvision_detector(config).load_state_dict(standard, strict=True)


def test_a_resnet50_detector_has_the_keys_and_shapes_of_torchvisions_resnet50_detector():
    with torch.device("meta"):
        ours = IoUDetector(
            ModelConfig(backbone="resnet50_fpn", weights="none"),
            CLASSES,
            branch=IoUBranchConfig(),
            target_threshold=0.75,
        ).state_dict()
        theirs = fasterrcnn_resnet50_fpn(num_classes=CLASSES + 1, weights=None, weights_backbone=None).state_dict()
    standard = {name: value.shape for name, value in ours.items() if not name.startswith("iou_branch.")}
    assert standard == {name: value.shape for name, value in theirs.items()}


def test_pooling_without_alignment_equals_torchvisions_from_every_level():
    rng = torch.Generator().manual_seed(0)
    frame = 512
    strides = (4, 8, 16, 32)
    maps = {str(i): torch.rand(2, 3, frame // s, frame // s, generator=rng) for i, s in enumerate(strides)}
    corners = torch.rand(60, 2, generator=rng) * 200
    sides = 4 + torch.rand(60, 2, generator=rng) ** 2 * 300
    boxes = torch.cat([corners, corners + sides], dim=1)
    big = torch.tensor([[0.0, 0.0, 500.0, 500.0]])  # 500 > 448: stride 32
    rois = [boxes[:25], torch.cat([boxes[25:], big])]
    expected = MultiScaleRoIAlign(list(maps), 7, 2)(maps, rois, [(frame, frame)] * 2)
    found = pool_rois(list(maps.values()), rois, strides=strides, side=7, sampling_ratio=2, aligned=False)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize(
    ("number", "ratio", "aligned", "frozen"),
    [(1700, 0, True, None), (90, 2, False, 1), (90, 2, True, 0), (1, 2, True, None), (0, 0, True, None)],
)
def test_pooling_for_training_has_the_values_and_gradients_of_autograds_own(
    number: int, ratio: int, aligned: bool, frozen: int | None, products: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(roi_products, "MOST_CELLS", 5000 if products else -1)  # of three maps two, or none
    monkeypatch.setattr(roi_products, "MOST_CELLS_TRAINED", 5000 if products else -1)
    rng = torch.Generator().manual_seed(0)
    strides, frame = (4, 8, 16), 512
    # As a channels-last network gives them.
    maps = [
        torch.rand(2, 3, frame // s, frame // s, generator=rng).to(memory_format=torch.channels_last) for s in strides
    ]
    corners = torch.rand(number, 2, generator=rng) * 150
    boxes = torch.cat([corners, corners + 4 + torch.rand(number, 2, generator=rng) ** 2 * 350], dim=1)
    rows = torch.cat([torch.randint(2, (number, 1), generator=rng).float(), boxes], dim=1)
    weight = torch.rand(number, 7, 7, 3, generator=rng).permute(0, 3, 1, 2)  # a gradient that is not contiguous
    # FPN, Eq. 1: an RoI of 224 pixels from stride 16, one of 112 from stride 8.
    level = torch.floor(4 + torch.log2(((boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()) / 224) + 1e-6).clamp(2, 4)
    members = [torch.where(level == 2 + i)[0] for i in range(3)]
    assert number < 90 or min(map(len, members)) > 5

    def by_autograd(own: list[torch.Tensor]) -> torch.Tensor:
        parts = [
            roi_align(each, rows[some], 7, 1 / stride, ratio, aligned)
            for each, some, stride in zip(own, members, strides, strict=True)
        ]
        return torch.cat(parts)[torch.argsort(torch.cat(members))]

    def ours(own: list[torch.Tensor]) -> torch.Tensor:
        return pool_rois(own, rows, strides=strides, side=7, sampling_ratio=ratio, aligned=aligned)

    results = []
    for pool in (ours, by_autograd):
        own = [each.clone().requires_grad_(place != frozen) for place, each in enumerate(maps)]
        pooled = pool(own)
        (pooled * weight).sum().backward()
        results.append([pooled.detach(), *(each.grad for each in own)])
    for mine, theirs in zip(*results, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and products:
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)  # sums of up to 1,700 RoIs
        assert mine is None or products or torch.equal(mine, theirs)
    assert sum(each is None for each in results[0]) == (frozen is not None)
    with torch.no_grad():
        assert torch.equal(ours(maps), results[0][0])


def test_alignment_moves_the_samples_by_half_a_pixel():
    # An 8 x 8 ramp, value 8 y + x at pixel (x, y); box (1, 1, 5, 5) as one bin. Without alignment its middle is read at
    # (3, 3): 8 * 3 + 3 = 27. With it, pixel centres lie at +.5, so the middle is read at (2.5, 2.5): 22.5.
    ramp = torch.arange(64.0).reshape(1, 1, 8, 8)
    box = [torch.tensor([[1.0, 1.0, 5.0, 5.0]])]

    def pooled(*, aligned: bool) -> float:
        return float(pool_rois([ramp], box, strides=(1,), side=1, sampling_ratio=2, aligned=aligned))

    assert pooled(aligned=False) == pytest.approx(27.0)
    assert pooled(aligned=True) == pytest.approx(22.5)
    assert float(roi_align(ramp, box, 1, aligned=True)) == pytest.approx(22.5)
