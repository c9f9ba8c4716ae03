"""Cascade R-CNN's training losses and detections against the paper's algorithm, written down straight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from raydet.config.detector import ModelConfig
from raydet.families.detection.passes import train_pass
from raydet.records import Target
from raydet.vision.detector import Detector
from raydet.vision.images import collate
from tests.parity.plain_step import Boxes, anchors, decode, encode, flat, framed, inside, overlaps, propose

HEIGHT, WIDTH, CLASSES = 60, 90, 3  # plain_step's picture
IOUS = (0.1, 0.15, 0.2)  # so low that untrained heads have foreground in every stage
CODES = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
SETTINGS: dict[str, Any] = {
    "detector": "cascade_rcnn",
    "cascade_ious": IOUS,
    "backbone": "small_gn",
    "small_channels": [8, 8, 16, 16, 16],
    "fpn_channels": 16,
    "box_head_dim": 32,
    "anchor_sizes": [[12], [24], [48]],
    "rpn_post_nms_train": 40,
    "rpn_post_nms_test": 40,
    "roi_sampling_ratio": 2,
    # Nothing is drawn: all anchors and RoIs are sampled, and no foreground is left out.
    "rpn_batch": 1000,
    "rpn_positive_fraction": 1.0,
    "roi_batch": 512,
    "roi_positive_fraction": 1.0,
}
TRUTH = [
    Target.truth(torch.tensor([[10.0, 10.0, 50.0, 50.0], [40.0, 20.0, 85.0, 55.0]]), torch.tensor([0, 2])),
    Target.truth(torch.tensor([[5.0, 30.0, 35.0, 55.0]]), torch.tensor([1])),
    Target.empty(),
]


def detector() -> Detector:
    """Return a network whose heads disagree, and move boxes far enough that stages see others."""
    torch.manual_seed(0)
    model = Detector(ModelConfig.model_validate(SETTINGS), CLASSES)
    for head in model.heads:
        torch.nn.init.normal_(head.box_predictor.cls_score.weight, std=0.3)
        torch.nn.init.normal_(head.box_predictor.bbox_pred.weight, std=0.3)
    return model


def pictures() -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    return list(torch.randint(0, 256, (3, 3, HEIGHT, WIDTH), generator=rng, dtype=torch.uint8))


def pooled(model: Detector, maps: list[Tensor], image: int, rois: Tensor) -> Tensor:
    """RoIAlign from the level that fits: strides 8, 16, 32, of which a box of 224 pixels has 16."""
    level = (4 + ((rois[:, 2:] - rois[:, :2]).prod(dim=1).sqrt() / 224).log2() + 1e-6).floor().clamp(3, 5)
    found = torch.zeros(len(rois), 16, 7, 7)
    for one, stride in zip(maps, (8, 16, 32), strict=True):
        rows = torch.where(level == torch.tensor(stride).log2())[0]
        found = found.index_copy(0, rows, roi_align(one[image : image + 1], [rois[rows]], 7, 1 / stride, 2, True))
    return found


def judged(head: Any, features: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits `[R, K + 1]` and the one move `[R, 4]` of each RoI."""
    box, last = head.box_head, head.box_predictor
    shared = (features.flatten(1) @ box.fc6.weight.T + box.fc6.bias).relu()
    shared = (shared @ box.fc7.weight.T + box.fc7.bias).relu()
    return (
        shared @ last.cls_score.weight.T + last.cls_score.bias,
        shared @ last.bbox_pred.weight.T + last.bbox_pred.bias,
    )


def stages(model: Detector, maps: list[Tensor], image: int, first: Tensor, truth: Boxes) -> list[tuple[Tensor, ...]]:
    """Of one image and each stage: sum of classification losses, sum of box losses, number of RoIs."""
    found, rois = [], first
    for k in range(3):
        rois = torch.cat([rois, truth.boxes])
        logits, moves = judged(model.roi_heads.stages[k], pooled(model, maps, image, rois))
        labels, owner = torch.zeros(len(rois), dtype=torch.int64), torch.zeros(len(rois), dtype=torch.int64)
        if len(truth.boxes):
            best, owner = overlaps(rois, truth.boxes).max(dim=1)
            labels = torch.where(best >= IOUS[k], truth.labels[owner], labels)
        own = logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
        cls = ((1 - own) ** 1.5 * -own.log()).sum()
        fg = torch.where(labels > 0)[0]
        reg = moves[fg].sum() * 0
        if len(fg):
            reg = (moves[fg] - encode(truth.boxes[owner[fg]], rois[fg], CODES[k])).abs().sum()
        found.append((cls, reg, torch.tensor(float(len(rois))), torch.tensor(float(len(fg)))))
        rois = inside(decode(moves, rois, CODES[k])).detach()  # no gradient: the next stage takes boxes as they are
    return found


def test_the_losses_of_each_stage_are_the_papers_and_so_are_their_gradients():
    model = detector().train()
    passed = train_pass(model, collate(pictures(), "cpu"), TRUTH, [torch.Generator().manual_seed(0)] * 3)

    maps = list(model.backbone(framed(pictures())).values())
    objectness, moves = model.rpn.head(maps)
    grid = anchors(model.config, objectness)
    sums = []
    for i, target in enumerate(TRUTH):
        with torch.no_grad():
            by_level = [flat(level[i], 1)[:, 0] for level in objectness]
            first = propose(model.config, grid, by_level, [flat(level[i], 4) for level in moves])
        sums.append(stages(model, maps, i, first, Boxes(target.boxes, target.classes + 1)))
    expected = {}
    for k, suffix in enumerate(("", "_2", "_3")):
        cls, reg, rois, fg = (torch.stack([each[k][j] for each in sums]) for j in range(4))
        assert fg[:2].min() > 1, "the test needs foreground beside the true boxes themselves in every stage"
        expected |= {f"roi_cls{suffix}": cls, f"roi_reg{suffix}": reg}
        assert passed.counts[f"roi_cls{suffix}"].tolist() == rois.tolist()
    assert list(passed.sums) == ["rpn_cls", "rpn_reg", *expected]
    assert torch.equal(passed.roi.cls(), passed.sums["roi_cls_3"])  # what a branch hears of: the last head
    for name, value in expected.items():
        torch.testing.assert_close(passed.sums[name], value, rtol=2e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")

    weights = [p for name, p in model.named_parameters() if not name.startswith("rpn.")]
    mine = torch.autograd.grad(sum(passed.sums[name].sum() for name in expected), weights)
    theirs = torch.autograd.grad(sum(value.sum() for value in expected.values()), weights)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_detections_are_the_last_stages_boxes_with_the_mean_of_the_heads_probabilities():
    model = detector().eval()
    found = model.candidates(collate(pictures(), "cpu"), proposals="train", score_floor=0.0, top_k=10**6)
    maps = list(model.backbone(framed(pictures())).values())
    objectness, moves = model.rpn.head(maps)
    grid = anchors(model.config, objectness)
    for i, said in enumerate(found):
        by_level = [flat(level[i], 1)[:, 0] for level in objectness]
        rois = propose(model.config, grid, by_level, [flat(level[i], 4) for level in moves])
        for k in range(2):
            rois = inside(decode(judged(model.roi_heads.stages[k], pooled(model, maps, i, rois))[1], rois, CODES[k]))
        features = pooled(model, maps, i, rois)
        every = [judged(head, features) for head in model.roi_heads.stages]
        scores = (sum(logits.softmax(dim=1) for logits, _ in every) / 3)[:, 1:]
        boxes = inside(decode(every[2][1], rois, CODES[2]))
        real = ((boxes[:, 2:] - boxes[:, :2]) >= 1e-2).all(dim=1)
        expected = sorted(
            (float(scores[r, c]), c, *boxes[r].tolist()) for r in torch.where(real)[0].tolist() for c in range(CLASSES)
        )
        mine = sorted(
            (float(s), int(c), *b.tolist()) for s, c, b in zip(said.scores, said.classes, said.boxes, strict=True)
        )
        assert len(mine) == len(expected) > 60
        torch.testing.assert_close(torch.tensor(mine), torch.tensor(expected), rtol=1e-3, atol=1e-3)


def test_a_stage_moves_a_box_whatever_its_class_and_is_stricter_than_the_one_before():
    model = detector()
    shapes = [list(head.box_predictor.bbox_pred.weight.shape) for head in model.heads]
    assert shapes == [[4, 32]] * 3
    assert [head.matcher.fg_iou for head in Detector(plain(), CLASSES).heads] == [0.5, 0.6, 0.7]
    assert [tuple(head.coder.weights) for head in model.heads] == list(CODES)


def plain(**changes: Any) -> ModelConfig:
    settings = {key: value for key, value in SETTINGS.items() if key != "cascade_ious"}
    return ModelConfig.model_validate({**settings, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roi_fg_iou": 0.4}, "roi_fg_iou does nothing with detector=cascade_rcnn: set cascade_ious"),
        ({"cascade_ious": [0.5, 0.6]}, "cascade_loss_weights has 3 numbers, cascade_ious 2"),
        ({"cascade_ious": [0.6, 0.5, 0.7]}, "no stage may ask for less than the one before"),
        (
            {"detector": "faster_rcnn", "cascade_loss_weights": [1, 0.5, 0.25]},
            "remove it, or set detector: cascade_rcnn",
        ),
    ],
)
def test_settings_of_stages_that_do_not_fit_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        plain(**changes)
