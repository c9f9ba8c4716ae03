"""Cascade R-CNN against a straight reading of the paper: plain loops over stages, images and boxes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_iou

from raydet.config.detector import ModelConfig
from raydet.families.detection.config import IoUBranchConfig
from raydet.families.detection.gates import after_nms
from raydet.families.detection.iou_branch import BACKGROUND, IoUDetector, iou_pass
from raydet.families.detection.passes import train_pass
from raydet.records import Target
from raydet.vision.cascade import CascadeHeads, moved
from raydet.vision.detector import Detector
from raydet.vision.images import collate

HEIGHT, WIDTH, CLASSES = 96, 128, 3
IOUS = (0.5, 0.6, 0.7)
WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
TARGETS = [
    Target.truth(torch.tensor([[10.0, 10.0, 50.0, 60.0], [40.0, 20.0, 120.0, 90.0]]), torch.tensor([0, 2])),
    Target.truth(torch.tensor([[5.0, 30.0, 35.0, 55.0]]), torch.tensor([1])),
]


def config(**changes: object) -> ModelConfig:
    settings = {
        "detector": "cascade_rcnn",
        "backbone": "small_gn",
        "small_channels": (8, 8, 16, 16, 16),
        "fpn_channels": 16,
        "box_head_dim": 32,
        "anchor_sizes": ((16.0,), (32.0,), (64.0,)),
        "rpn_batch": 64,
        "roi_batch": 64,
        "roi_sampling_ratio": 2,
        "roi_cls_loss": "cross_entropy",
    }
    return ModelConfig.model_validate({**settings, **changes})


def cascade(**changes: object) -> Detector:
    """A cascade whose scores and moves differ from box to box."""
    torch.manual_seed(0)
    found = Detector(config(**changes), CLASSES)
    for predictor in found.roi_heads.box_predictor:
        torch.nn.init.normal_(predictor.cls_score.weight, std=0.3)
        torch.nn.init.normal_(predictor.bbox_pred.weight, std=0.1)
    return found


def images() -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    return list(torch.randint(0, 256, (2, 3, HEIGHT, WIDTH), generator=rng, dtype=torch.uint8))


# --- the paper, read straight -----------------------------------------------------------------------------------------


def head(model: Detector, features: dict[str, Tensor], image: int, boxes: Tensor, stage: int) -> tuple[Tensor, Tensor]:
    """Scores and deltas of one stage, from the weights by name."""
    own = {name: value for name, value in model.roi_heads.named_parameters()}
    rows = torch.cat([torch.full((len(boxes), 1), float(image)), boxes], dim=1)
    x = model.roi_heads.pool(features, rows, 7).flatten(1)
    for layer in ("fc6", "fc7"):
        x = F.relu(x @ own[f"box_head.{stage}.{layer}.weight"].T + own[f"box_head.{stage}.{layer}.bias"])
    return tuple(
        x @ own[f"box_predictor.{stage}.{layer}.weight"].T + own[f"box_predictor.{stage}.{layer}.bias"]
        for layer in ("cls_score", "bbox_pred")
    )


def decoded(box: list[float], delta: list[float], weights: tuple[float, ...]) -> list[float]:
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    dx, dy, dw, dh = (value / weight for value, weight in zip(delta, weights, strict=True))
    most = math.log(1000 / 16)
    cx, cy = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h
    w, h = w * math.exp(min(dw, most)), h * math.exp(min(dh, most))
    clip = lambda value, high: min(max(value, 0.0), high)  # noqa: E731
    return [clip(cx - w / 2, WIDTH), clip(cy - h / 2, HEIGHT), clip(cx + w / 2, WIDTH), clip(cy + h / 2, HEIGHT)]


def encoded(box: list[float], truth: list[float], weights: tuple[float, ...]) -> list[float]:
    w, h = box[2] - box[0], box[3] - box[1]
    tw, th = truth[2] - truth[0], truth[3] - truth[1]
    shifts = (
        (truth[0] + tw / 2 - box[0] - w / 2) / w,
        (truth[1] + th / 2 - box[1] - h / 2) / h,
        math.log(tw / w),
        math.log(th / h),
    )
    return [shift * weight for shift, weight in zip(shifts, weights, strict=True)]


def straight_losses(
    model: Detector, features: dict[str, Tensor], image: int, drawn: Tensor
) -> list[tuple[Tensor, ...]]:
    """(class loss, box loss, RoIs, foreground RoIs) of each stage, summed over one image's RoIs."""
    truth, boxes, found = TARGETS[image], drawn.tolist(), []
    for stage in range(3):
        logits, deltas = head(model, features, image, torch.tensor(boxes), stage)
        cls, reg, foreground = torch.zeros(()), torch.zeros(()), 0
        for n, box in enumerate(boxes):
            ious = box_iou(torch.tensor([box]), truth.boxes)[0]
            best = int(ious.argmax())
            label = int(truth.classes[best]) + 1 if ious[best] >= IOUS[stage] else 0
            cls = cls + F.cross_entropy(logits[n], torch.tensor(label))
            if label:
                foreground += 1
                wanted = torch.tensor(encoded(box, truth.boxes[best].tolist(), WEIGHTS[stage]))
                reg = reg + (deltas[n] - wanted).abs().sum()
        found.append((cls, reg, len(boxes), foreground))
        after = [decoded(box, delta, WEIGHTS[stage]) for box, delta in zip(boxes, deltas.tolist(), strict=True)]
        boxes = [box for box in after if box[2] > box[0] and box[3] > box[1]]
    return found


def test_the_losses_of_every_stage_equal_those_of_a_straight_loop():
    model = cascade().train()
    batch = collate(images(), "cpu")
    found = train_pass(model, batch, TARGETS, [torch.Generator().manual_seed(n) for n in range(2)])
    features = model.features(batch)
    positives = []
    for image in range(2):
        wanted = straight_losses(model, features, image, found.stages[0].rois[image].boxes)
        for stage, (cls, reg, number, foreground) in enumerate(wanted):
            end = "" if stage == 0 else f"_{stage + 1}"
            torch.testing.assert_close(found.sums[f"roi_cls{end}"][image], cls, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found.sums[f"roi_reg{end}"][image], reg, rtol=1e-3, atol=1e-3)
            assert int(found.counts[f"roi_cls{end}"][image]) == number
            assert int(found.stages[stage].num_foreground[image]) == foreground
            positives.append(foreground)
    assert min(positives) >= 1 and len(set(positives)) > 2  # every stage has own boxes, and foreground to learn from


def test_detections_are_the_last_boxes_with_the_mean_score_of_all_classifiers():
    model = cascade().eval()
    batch = collate(images(), "cpu")
    found = model.candidates(batch, proposals="test", score_floor=0.05, top_k=10**6)
    with torch.no_grad():
        features = model.features(batch)
        proposals = model.propose(model.score_anchors(features), batch, "test")
        for image in range(2):
            boxes, scores = proposals[image].tolist(), []
            for stage in range(3):
                logits, deltas = head(model, features, image, torch.tensor(boxes), stage)
                scores.append(logits.softmax(1))
                boxes = [decoded(box, delta, WEIGHTS[stage]) for box, delta in zip(boxes, deltas.tolist(), strict=True)]
            mean = sum(scores) / 3
            roi, klass = torch.where(mean[:, 1:] > 0.05)
            wanted = torch.tensor(boxes)[roi]
            values = mean[roi, klass + 1]
            large = ((wanted[:, 2:] - wanted[:, :2]) >= 0.01).all(dim=1)
            wanted, values, klass = wanted[large], values[large], klass[large]
            kept = batched_nms(wanted, values, klass, 0.5)[:100]
            mine = after_nms(found[image], 0.5, 100)
            assert len(kept) > 5
            torch.testing.assert_close(mine.scores, values[kept], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(mine.boxes, wanted[kept], rtol=1e-3, atol=2e-2)
            assert mine.classes.tolist() == klass[kept].tolist()


# --- parts ------------------------------------------------------------------------------------------------------------


def test_the_weights_of_each_stage_have_torchvisions_names_and_boxes_know_no_class():
    shapes = {name: tuple(value.shape) for name, value in Detector(config(), CLASSES).roi_heads.state_dict().items()}
    of_one = {
        "box_head.{}.fc6.weight": (32, 16 * 49),
        "box_head.{}.fc6.bias": (32,),
        "box_head.{}.fc7.weight": (32, 32),
        "box_head.{}.fc7.bias": (32,),
        "box_predictor.{}.cls_score.weight": (4, 32),
        "box_predictor.{}.cls_score.bias": (4,),
        "box_predictor.{}.bbox_pred.weight": (4, 32),
        "box_predictor.{}.bbox_pred.bias": (4,),
    }
    assert shapes == {name.format(stage): shape for stage in range(3) for name, shape in of_one.items()}


def test_a_stage_sends_a_third_of_its_gradient_into_the_pyramid_and_all_of_it_into_its_own_head():
    heads = CascadeHeads(config(), CLASSES)
    level = torch.rand(1, 16, 12, 16, requires_grad=True)
    features = {"0": level, "1": torch.rand(1, 16, 6, 8), "2": torch.rand(1, 16, 3, 4)}
    box = [torch.tensor([[8.0, 8.0, 40.0, 40.0]])]
    heads(features, box, 1).class_logits[0, 1].backward()
    through, own = level.grad.clone(), heads.box_head[1].fc6.weight.grad.clone()
    level.grad = None
    heads.zero_grad()
    heads.box_predictor[1](heads.box_head[1](heads.pool(features, box, 7)))[0][0, 1].backward()
    torch.testing.assert_close(through * 3, level.grad)
    torch.testing.assert_close(own, heads.box_head[1].fc6.weight.grad)
    assert through.abs().max() > 0 and own.abs().max() > 0
    assert heads.box_head[0].fc6.weight.grad is None


def test_no_gradient_reaches_a_stage_through_the_boxes_that_it_moved():
    model = cascade().train()
    found = train_pass(model, collate(images(), "cpu"), TARGETS, [torch.Generator().manual_seed(n) for n in range(2)])
    found.sums["roi_reg_2"].sum().backward()
    assert model.roi_heads.box_predictor[0].bbox_pred.weight.grad is None
    assert model.roi_heads.box_predictor[1].bbox_pred.weight.grad.abs().max() > 0


def test_a_box_moves_by_its_stages_weights_and_stays_in_its_image():
    # Stage 2 divides by 20: x moves by 4 / 20 of the width of 10, 2 pixels; the width grows by e^(10 ln 2 / 10) = 2.
    coder = CascadeHeads(config(), CLASSES).coders[1]
    deltas = torch.tensor([[4.0, 0.0, 10 * math.log(2), 0.0]] * 2)
    boxes = [torch.tensor([[10.0, 10.0, 20.0, 20.0]]), torch.tensor([[50.0, 10.0, 60.0, 20.0]])]
    first, second = moved(coder, deltas, boxes, [(96, 128), (96, 60)])
    # centre 15 -> 17, width 20: 7 to 27; centre 55 -> 57: 47 to 67, of which the image has 60 columns
    assert first.tolist() == [pytest.approx([7.0, 10.0, 27.0, 20.0], abs=1e-4)]
    assert second.tolist() == [pytest.approx([47.0, 10.0, 60.0, 20.0], abs=1e-4)]


def test_every_stage_asks_for_more_overlap_and_drops_what_left_the_image():
    heads = CascadeHeads(config(), CLASSES)
    truth, labels = torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([2])
    # IoU .65: 6.5 of 10 rows, all inside the truth; and a box without width
    rois = torch.tensor([[0.0, 0.0, 10.0, 6.5], [128.0, 0.0, 128.0, 10.0]])
    labels_of = [heads.relabelled(stage, rois, truth, labels).labels.tolist() for stage in (1, 2)]
    assert labels_of == [[2], [0]]
    own = heads.relabelled(1, rois, truth, labels)
    assert own.matched.tolist() == truth.tolist() and own.matched_rows.tolist() == [0] and own.num_foreground == 1
    assert heads.relabelled(1, rois, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).labels.tolist() == [0]


@pytest.mark.parametrize("inputs", [("roi_features", "class_logits"), ("roi_features", "class_logits", "box_deltas")])
def test_the_iou_branch_judges_the_last_stage_and_is_read_at_the_best_mean_class(inputs: tuple[str, ...]):
    torch.manual_seed(0)
    branch = IoUBranchConfig(hidden=8, inputs=inputs)
    model = IoUDetector(config(), CLASSES, branch=branch, target_threshold=0.75)
    for predictor in model.roi_heads.box_predictor:
        torch.nn.init.normal_(predictor.cls_score.weight, std=0.3)
    batch = collate(images(), "cpu")
    found = train_pass(model.train(), batch, TARGETS, [torch.Generator().manual_seed(n) for n in range(2)])
    judged = iou_pass(model, found.roi, found.boxes)
    assert judged.foreground.tolist() == found.stages[2].num_foreground.tolist()
    judged.loss.sum().backward()
    assert model.iou_branch.hidden.weight.grad.abs().max() > 0
    assert model.roi_heads.box_head[0].fc6.weight.grad is None
    said = model.eval().candidates(batch, proposals="test", score_floor=0.05, top_k=10**6)[0]
    assert ((said.quality > 0) & (said.quality <= BACKGROUND)).all() and len(said.quality.unique()) > 5
