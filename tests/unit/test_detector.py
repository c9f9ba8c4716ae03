from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
import torch
from torch import Tensor

from raydet.config.detector import ModelConfig
from raydet.families.detection.config import IoUBranchConfig
from raydet.families.detection.iou_branch import IoUDetector, IoUPass, iou_pass
from raydet.families.detection.passes import compared, train_pass
from raydet.records import Target
from raydet.vision.detector import Detector
from raydet.vision.images import ImageBatch, collate
from raydet.vision.matching import BACKGROUND, IGNORED, sample
from raydet.vision.rpn import Rpn


@dataclass(frozen=True)
class Losses:
    """Loss sums and counts of each image, as `train_pass` and IL-net's branch give them."""

    rpn_cls: Tensor
    rpn_reg: Tensor
    roi_cls: Tensor
    roi_reg: Tensor
    iou: Tensor
    anchors: Tensor
    rois: Tensor
    fg_rois: Tensor
    iou_positives: Tensor
    iou_count: Tensor


def losses_of(model: Detector, images: ImageBatch, truth: list[Target], draws: list[torch.Generator]) -> Losses:
    found = train_pass(model, images, truth, draws)
    nothing = torch.zeros(len(truth))
    judged = IoUPass(nothing, nothing, nothing, nothing)
    if isinstance(model, IoUDetector):
        judged = iou_pass(model, found.roi, found.boxes)
    return Losses(
        **found.sums,
        iou=judged.loss,
        anchors=found.rpn.anchors,
        rois=found.roi.num_rois,
        fg_rois=found.roi.num_foreground,
        iou_positives=judged.positives,
        iou_count=judged.count,
    )


SUMS = ("rpn_cls", "rpn_reg", "roi_cls", "roi_reg", "iou")
COUNTS = ("anchors", "rois", "fg_rois", "iou_positives", "iou_count")


def config(**changes: object) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "backbone": "small_gn",
            "fpn_channels": 16,
            "box_head_dim": 32,
            "anchor_sizes": ((16.0,), (32.0,), (64.0,)),
            "rpn_batch": 64,
            "roi_batch": 32,
            **changes,
        }
    )


def detector(*, branch: IoUBranchConfig | None = IoUBranchConfig(hidden=16), **changes: object) -> Detector:  # noqa: B008
    torch.manual_seed(0)
    if branch is None:
        return Detector(config(**changes), 3)
    return IoUDetector(config(**changes), 3, branch=branch, target_threshold=0.75)


def pictures(number: int, height: int = 64, width: int = 96) -> list[Tensor]:
    rng = torch.Generator().manual_seed(5)
    return list(torch.randint(0, 256, (number, 3, height, width), generator=rng, dtype=torch.uint8))


def targets(number: int) -> list[Target]:
    boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], [30.0, 10.0, 90.0, 60.0]])
    return [Target.truth(boxes + i, torch.tensor([0, 2])) for i in range(number)]


def rngs(number: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(number)]


def total(losses: Losses) -> Tensor:
    return sum((getattr(losses, name).sum() for name in SUMS), torch.zeros(()))


def test_losses_of_four_images_are_those_of_two_and_two_and_so_are_the_gradients():
    model = detector()
    pixels, truth = pictures(4), targets(3) + [Target.empty()]
    whole = losses_of(model, collate(pixels, "cpu"), truth, rngs(4))
    total(whole).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    parts = []
    for part in (slice(0, 2), slice(2, 4)):
        parts.append(losses_of(model, collate(pixels[part], "cpu"), truth[part], rngs(4)[part]))
        total(parts[-1]).backward()
    for field in fields(Losses):
        joined = torch.cat([getattr(part, field.name) for part in parts])
        torch.testing.assert_close(joined, getattr(whole, field.name), rtol=1e-4, atol=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-3, msg=lambda m, n=name: n + m)


def test_images_without_boxes_train_the_classifiers_on_background_only():
    model = detector(rpn_batch=256)
    losses = losses_of(model, collate(pictures(2, 128, 128), "cpu"), [Target.empty()] * 2, rngs(2))
    # 128 x 128: (16^2 + 8^2 + 4^2) * 3 = 1008 anchors, so 256 negatives; untrained objectness: about 256 ln 2 = 177
    assert losses.anchors.tolist() == [256, 256]
    assert losses.rpn_cls.tolist() == pytest.approx([177.4] * 2, rel=0.05)
    assert losses.rois.tolist() == [32, 32]
    assert losses.fg_rois.tolist() == [0, 0] and losses.iou_positives.tolist() == [0, 0]
    assert float(losses.roi_cls.detach().min()) > 0
    for name in ("rpn_reg", "roi_reg", "iou"):
        assert getattr(losses, name).tolist() == [0, 0]
    total(losses).backward()
    for name, parameter in model.named_parameters():  # data-parallel training needs a gradient everywhere
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_boxes_without_an_inside_are_refused():
    flat = Target.truth(torch.zeros(1, 4), torch.tensor([0]))
    with pytest.raises(ValueError, match="image 1 of the batch: box .0.0, 0.0, 0.0, 0.0. has no inside"):
        losses_of(detector(), collate(pictures(2), "cpu"), [Target.empty(), flat], rngs(2))


def test_the_rpn_count_is_the_configured_one_even_where_fewer_anchors_exist():
    # 32 x 32: (4^2 + 2^2 + 1) * 3 = 63 anchors; torchvision would divide by at most 63
    losses = losses_of(detector(rpn_batch=256), collate(pictures(1, 32, 32), "cpu"), [Target.empty()], rngs(1))
    assert losses.anchors.tolist() == [256]
    assert losses.rpn_cls.tolist() == pytest.approx([63 * 0.6931], rel=0.05)


def test_true_boxes_are_foreground_rois_and_train_the_branch():
    model = detector()
    far, truth = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[20.0, 20.0, 60.0, 50.0]])
    rois = model.roi_heads.sample([far], [truth], [torch.tensor([3])], rngs(1))[0]
    assert rois.boxes.tolist() == [truth[0].tolist(), far[0].tolist()]  # foreground first
    assert rois.labels.tolist() == [3, 0]
    assert rois.num_foreground == 1
    images = collate(pictures(1), "cpu")
    torch.nn.init.zeros_(model.roi_heads.box_predictor.bbox_pred.weight)  # decodes every RoI to itself: IoU 1
    said = model.score_rois(model.features(images), [rois.boxes])
    judged = iou_pass(model, compared(model.config, (rois,), said), [truth])
    assert judged.positives.tolist() == [1]
    assert float(judged.loss.detach()) == pytest.approx(0.245065, abs=0.02)  # one untrained RoI: .5^1.5 * ln 2


@pytest.mark.parametrize(("loss", "counts"), [("focal_bce", "rois"), ("focal_soft", "rois"), ("smooth_l1", "fg_rois")])
def test_the_iou_loss_names_its_own_count(loss: str, counts: str):
    model = detector(branch=IoUBranchConfig.model_validate({"hidden": 16, "loss": loss}))
    losses = losses_of(model, collate(pictures(2), "cpu"), targets(2), rngs(2))
    assert losses.iou_count.tolist() == getattr(losses, counts).tolist()
    assert losses.rois.tolist() != losses.fg_rois.tolist()


def test_without_a_branch_the_iou_loss_is_zero_and_the_rest_is_unchanged():
    images, truth = collate(pictures(2), "cpu"), targets(2)
    with_branch = losses_of(detector(branch=IoUBranchConfig(hidden=16)), images, truth, rngs(2))
    without = losses_of(detector(branch=None), images, truth, rngs(2))
    assert without.iou.tolist() == [0, 0]
    for name in ("rpn_cls", "rpn_reg", "roi_cls", "roi_reg", "fg_rois"):
        assert torch.equal(getattr(without, name), getattr(with_branch, name))


def test_sampling_keeps_the_share_of_positives_and_never_draws_the_ignored():
    matched = torch.tensor([0] * 10 + [BACKGROUND] * 20 + [IGNORED] * 50)
    positive, negative = sample([matched], 16, 0.25, rngs(1))[0]
    assert len(positive) == 4 and len(negative) == 12
    assert int(positive.max()) < 10 and int(negative.min()) >= 10 and int(negative.max()) < 30
    positive, negative = sample([matched[8:]], 16, 0.25, rngs(1))[0]  # 2 positives only: background fills up
    assert (len(positive), len(negative)) == (2, 14)
    assert len(set(negative.tolist())) == 14


def test_candidates_are_complete_sorted_clipped_and_say_how_far_down_they_reach():
    model = detector()
    images = collate(pictures(1, 60, 90), "cpu")
    everything = model.candidates(images, proposals="train", score_floor=0.05, top_k=10**6)[0]
    best = model.candidates(images, proposals="train", score_floor=0.05, top_k=7)[0]
    assert everything.complete_above == 0.05
    assert len(best) == 7 < len(everything)
    assert best.complete_above == float(everything.scores[7])  # the best of those cut off
    assert torch.equal(best.boxes, everything.boxes[:7])
    assert (everything.scores.diff() <= 0).all() and (everything.scores > 0.05).all()
    assert float(everything.boxes.min()) >= 0
    assert float(everything.boxes[:, 2].max()) <= 90 and float(everything.boxes[:, 3].max()) <= 60
    assert set(everything.classes.tolist()) == {0, 1, 2}
    assert not everything.scores.requires_grad


def test_quality_is_the_branchs_score_of_the_best_class_or_one():
    model = detector()
    images = collate(pictures(1), "cpu")
    torch.nn.init.zeros_(model.iou_branch.score.weight)
    with torch.no_grad():
        model.iou_branch.score.bias.copy_(torch.logit(torch.tensor([0.1, 0.2, 0.3, 0.4])))  # background, 0, 1, 2
        model.roi_heads.box_predictor.cls_score.bias.copy_(torch.tensor([0.0, 0.0, 5.0, 0.0]))
    found = model.candidates(images, proposals="test", score_floor=0.0, top_k=10**6)[0]
    # Class 1 is the best guess of every RoI; its q counts for the RoI's candidates of all classes.
    assert set(found.classes.tolist()) == {0, 1, 2}
    assert found.quality.unique().tolist() == pytest.approx([0.3])
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias.copy_(torch.tensor([5.0, 0.0, 0.0, 0.0]))
    found = model.candidates(images, proposals="test", score_floor=0.0, top_k=10**6)[0]
    assert found.quality.unique().tolist() == [1.0]  # background: passes every gate


def test_without_a_branch_every_quality_is_one():
    found = detector(branch=None).candidates(collate(pictures(1), "cpu"), proposals="test", score_floor=0.0, top_k=50)
    assert found[0].quality.tolist() == [1.0] * 50


def test_candidates_do_not_depend_on_the_mode_nor_on_larger_neighbours():
    model = detector()
    small, large = pictures(1, 40, 60)[0], pictures(1, 100, 130)[0]
    settings = {"proposals": "train", "score_floor": 0.05, "top_k": 10**6}
    alone = model.eval().candidates(collate([small], "cpu"), **settings)[0]
    together = model.train().candidates(collate([large, small], "cpu"), **settings)
    assert torch.equal(together[1].boxes, alone.boxes)
    assert torch.equal(together[1].scores, alone.scores)
    assert torch.equal(together[1].quality, alone.quality)
    assert float(together[0].boxes[:, 2].max()) > 64  # the neighbour kept its own frame


def test_a_diverged_model_says_nothing_and_has_losses_that_are_not_finite():
    model = detector()
    torch.nn.init.constant_(model.rpn.head.bbox_pred.bias, float("nan"))
    images = collate(pictures(2), "cpu")
    found = model.candidates(images, proposals="test", score_floor=0.0, top_k=10)
    assert [len(each) for each in found] == [0, 0]
    losses = losses_of(model, images, [targets(1)[0], Target.empty()], rngs(2))
    assert losses.rois.tolist() == [2, 0]  # the true boxes only
    assert torch.isnan(losses.rpn_reg[0])


def test_proposal_numbers_follow_the_request_not_the_mode():
    model = detector(rpn_post_nms_train=20, rpn_post_nms_test=5)
    images = collate(pictures(1), "cpu")
    scores = model.score_anchors(model.features(images))
    for mode in (True, False):
        model.train(mode)
        assert len(model.propose(scores, images, "train")[0]) == 20
        assert len(model.propose(scores, images, "test")[0]) == 5


def test_under_autocast_probabilities_boxes_and_losses_stay_float32():
    model = detector()
    images, truth = collate(pictures(2), "cpu"), targets(2)
    exact = losses_of(model, images, truth, rngs(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model.features(images)
        scores = model.score_anchors(features)
        rough = losses_of(model, images, truth, rngs(2))
        found = model.candidates(images, proposals="test", score_floor=0.0, top_k=10)[0]
    assert next(iter(features.values())).dtype == torch.bfloat16  # autocast did act
    assert scores.anchors.dtype == scores.deltas.dtype == torch.float32
    assert torch.equal(scores.anchors, model.score_anchors(model.features(images)).anchors)
    assert {found.boxes.dtype, found.scores.dtype, found.quality.dtype} == {torch.float32}
    for name in SUMS:
        assert getattr(rough, name).dtype == torch.float32
        torch.testing.assert_close(getattr(rough, name), getattr(exact, name), rtol=0.35, atol=0.5)
    total(rough).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_small_detector_learns_two_images_from_scratch():
    model = detector(box_head_dim=64)
    images, truth = collate(pictures(2), "cpu"), targets(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)  # at 0.02 one of four seeds diverges

    def mean_loss(step: int) -> Tensor:
        losses = losses_of(model, images, truth, [torch.Generator().manual_seed(step) for _ in range(2)])
        rpn, roi = losses.anchors.sum(), losses.rois.sum()
        return (losses.rpn_cls + losses.rpn_reg).sum() / rpn + (
            losses.roi_cls + losses.roi_reg + losses.iou
        ).sum() / roi

    first = float(mean_loss(0).detach())
    for step in range(80):
        optimizer.zero_grad()
        mean_loss(step).backward()
        optimizer.step()
    assert float(mean_loss(0).detach()) < 0.4 * first


@pytest.mark.parametrize("side", [672, 736, 800])
def test_anchors_of_the_coarsest_level_lie_a_stride_apart_whatever_the_frame(side: int):
    # 672 / 64 = 10.5: level 64 has 11 cells; 672 // 11 = 61 would put the last anchor 30 pixels too near.
    model = Rpn(
        config(backbone="resnet18_fpn", weights="none", anchor_sizes=((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)))
    )
    cells = [-(-side // stride) for stride in (4, 8, 16, 32, 64)]
    maps = {str(level): torch.zeros(1, 16, 1, number) for level, number in enumerate(cells)}
    anchors = model(maps).anchors[-3 * cells[-1] :: 3]  # the first ratio of each cell of the coarsest level
    centres = anchors[:, [0, 2]].mean(dim=1)
    assert centres.tolist() == [64.0 * cell for cell in range(cells[-1])]
