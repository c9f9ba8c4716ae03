"""Soft Teacher's engine against a straight line, and numbers worked out by hand for its formulas."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.data.decode import decode
from raydet.data.order import BatchOrder
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import BOXES, PreparedBoxes
from raydet.families.detection.gates import after_nms
from raydet.families.detection.methods.soft_teacher import SoftTeacher, cls_terms, jittered, spread
from raydet.families.detection.soft_views import OwnGeometry
from raydet.randomness import stream
from raydet.records import Target
from raydet.registry import build_method
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.launch import launch
from raydet.vision.detector import Detector
from raydet.vision.geometry import View, clip_boxes, is_usable
from raydet.vision.images import collate
from raydet.vision.losses import box_regression, cross_entropy
from raydet.vision.matching import match, sample
from raydet.vision.roi import box_coder, by_class
from raydet.vision.rpn import rpn_losses
from tests.helpers import tiny_soft

CPU = torch.device("cpu")


def test_fact_11_the_class_loss_is_a_weighted_mean():
    # .2 + .7 + .1 * .9 + .3 * .5 + 2.0 * .1 = 1.34; 1 + 1 + .9 + .5 + .1 = 3.5; 1.34 / 3.5 = .382857
    rows, weights = torch.tensor([0.2, 0.7, 0.1, 0.3, 2.0]), torch.tensor([1, 1, 0.9, 0.5, 0.1])
    roi = type("Roi", (), {"counts": [5, 0]})()
    batch = type("Batch", (), {"rows": lambda self, group: slice(0, 1) if group == "labeled" else slice(1, 2)})()
    term = cls_terms(batch, roi, rows * weights, weights)["sup/roi_cls"]  # type: ignore[arg-type]
    assert float(term.total / term.count) == pytest.approx(0.382857, abs=1e-6)
    plain = cls_terms(batch, roi, rows, torch.ones(5))["sup/roi_cls"]  # type: ignore[arg-type]
    assert float(plain.total / plain.count) == pytest.approx(0.66)


def test_fact_12_the_spread_of_three_versions_of_a_box():
    # Unbiased deviations (2, 0, 0, 1), mean (12, 20, 50, 61), sides 38 and 41:
    # (2 / 38 + 0 + 0 + 1 / 41) / 4 = (.052632 + .024390) / 4 = .019255, below .02; the biased ones would give .015722.
    versions = torch.tensor([[10.0, 20, 50, 60], [12, 20, 50, 61], [14, 20, 50, 62]])[:, None]
    assert spread(versions).tolist() == pytest.approx([0.019255], abs=1e-6)


def test_boxes_are_jittered_relative_to_their_sides_which_count_as_one_pixel_at_least():
    boxes = torch.tensor([[10.0, 20.0, 60.0, 40.0], [5.0, 5.0, 5.5, 5.5]])
    noise = torch.ones(1, 2, 4)
    # sides 50 and 20, times .06: 3 and 1.2; a side of half a pixel counts as 1: .06
    assert jittered(boxes, noise, 0.06)[0].tolist() == [
        pytest.approx([13.0, 21.2, 63.0, 41.2]),
        pytest.approx([5.06, 5.06, 5.56, 5.56]),
    ]


def test_the_teacher_forgets_fast_at_first_and_averages_parameters_only():
    method = build_method(tiny_soft(Path("unused")))
    teacher = method.teacher()
    assert teacher is not None and teacher.first_step == 0 and teacher.buffers == "own"
    # The update before step t keeps min(.999, 1 - 1 / (t + 1)); the engine makes it at the end of step t - 1.
    assert [teacher.keep_at(t - 1) for t in (1, 2, 9, 999, 5000)] == pytest.approx([0.5, 2 / 3, 0.9, 0.999, 0.999])
    later = build_method(tiny_soft(Path("unused"), method={"burn_in_steps": 3})).teacher()
    assert later is not None and later.first_step == 3 and later.keep_at(3) == pytest.approx(0.5)


def carried(boxes: torch.Tensor, source: View, target: View) -> torch.Tensor:
    """Map boxes between two views of an image by their corners, with matrices alone."""

    def matrix(view: View) -> torch.Tensor:
        a, b, tx, c, d, ty = view.matrix
        return torch.tensor([[a, b, tx], [c, d, ty], [0, 0, 1]], dtype=torch.float64)

    both = matrix(target) @ torch.linalg.inv(matrix(source))
    x, y = boxes[:, [0, 2, 2, 0]].double(), boxes[:, [1, 1, 3, 3]].double()
    moved = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ both.T
    low, high = moved[..., :2].amin(dim=1), moved[..., :2].amax(dim=1)
    return clip_boxes(torch.cat([low, high], dim=1).float(), target.height, target.width)


def reference(config: DetectionConfig, data: PreparedBoxes) -> tuple[list[dict[str, float]], Detector, dict[str, Any]]:
    """Train as the paper says; return the raw losses of each step, the student, and what the gates did."""
    method, optim, seed = config.method, config.optim, config.seed
    recipe = OwnGeometry(config.data.views, method.views)
    torch.manual_seed(seed)
    student = Detector(config.model, len(data.class_names))
    matrices = [p for p in student.parameters() if p.ndim > 1]
    vectors = [p for p in student.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": optim.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=optim.lr,
    )
    orders = {
        "labeled": BatchOrder(len(data.labeled), optim.labeled_batch, seed, "labeled"),
        "unlabeled": BatchOrder(len(data.unlabeled), optim.unlabeled_batch, seed, "unlabeled"),
    }
    model = config.model
    seen_gates = {"rpn": 0, "cls": 0, "reg": 0, "carried": 0, "foreground": 0}

    def rois(features, proposals, target, rng):
        """One image's RoIs: their boxes, labels, matched boxes, logits and deltas."""
        boxes = torch.cat([proposals, target.boxes])
        matched = match(boxes, target.boxes, student.roi_heads.matcher)
        fg, bg = sample(matched, model.roi_batch, model.roi_positive_fraction, rng)
        drawn = boxes[torch.cat([fg, bg])]
        labels = torch.cat([target.classes[matched[fg]] + 1, torch.zeros_like(bg)])
        said = student.score_rois(features, [drawn])
        return drawn, labels, target.boxes[matched[fg]], said

    def box_loss(drawn, labels, wanted, said):
        fg = labels > 0
        deltas = by_class(said.box_deltas)[fg, labels[fg]]
        return box_regression(deltas, box_coder.encode_single(wanted, drawn[fg]), model.box_loss).sum()

    teacher, history = copy.deepcopy(student), []
    for step in range(optim.steps):
        if step:  # before the step, from step 0 on, parameters only
            keep = min(method.ema_keep_rate, 1 - 1 / (step + 1))
            with torch.no_grad():
                for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
                    old.copy_(keep * old + (1 - keep) * new)
        sums = dict.fromkeys(("rpn_cls", "rpn_reg", "roi_cls", "roi_reg"), 0.0)
        counts = {"anchors": 0, "roi_cls": 0, "roi_reg": 0}
        for slot, i in enumerate(orders["labeled"].positions(step)):
            name, truth = data.labeled.id_at(int(i)), data.labeled.target_at(int(i))
            (pixels,), view = recipe.labeled(
                decode(data.labeled.file_at(int(i))),
                lambda purpose, name=name, step=step, slot=slot: stream(seed, purpose, name, step, slot),
            )
            boxes = clip_boxes(view.to_view(truth.boxes), view.height, view.width)
            usable = is_usable(boxes, config.data.views.min_box_px)
            target, rng = (
                Target.truth(boxes[usable], truth.classes[usable]),
                stream(seed, "sampling", "labeled", name, step),
            )
            images = collate([pixels], CPU)
            features = student.features(images)
            anchors = student.score_anchors(features)
            cls, reg, _ = rpn_losses(anchors, [target.boxes], [rng], matcher=student.rpn.matcher, config=model)
            (proposals,) = student.propose(anchors, images, "train")
            found = rois(features, proposals, target, rng)
            sums["rpn_cls"] += cls.sum()
            sums["rpn_reg"] += reg.sum()
            sums["roi_cls"] += cross_entropy(found[3].class_logits, found[1]).sum()
            sums["roi_reg"] += box_loss(*found)
            counts["anchors"] += model.rpn_batch
            counts["roi_cls"] += len(found[1])
            counts["roi_reg"] += len(found[1])
        divisors = {"rpn_cls": "anchors", "rpn_reg": "anchors", "roi_cls": "roi_cls", "roi_reg": "roi_reg"}
        terms = {f"sup/{key}": value / counts[divisors[key]] for key, value in sums.items()}

        sums = dict.fromkeys(("rpn_cls", "rpn_reg", "roi_cls", "roi_reg"), 0.0)
        counts = {"anchors": 0.0, "roi_cls": 0.0, "roi_reg": 0.0}
        for slot, i in enumerate(orders["unlabeled"].positions(step)):
            name = data.unlabeled.id_at(int(i))
            pixels, weak = recipe.teacher(decode(data.unlabeled.file_at(int(i))), stream(seed, "weak", name, step))
            images = collate([pixels], CPU)
            with torch.no_grad():
                of_teacher = teacher.features(images)
                (said,) = teacher.candidates(images, proposals="train", score_floor=0.05, top_k=10**6)
                said = after_nms(said, 0.5, 100)
                said = said.where(said.scores > method.pseudo_score_floor)
                noise = torch.randn(10, len(said), 4, generator=stream(seed, "annotate", name, step))
                spreads = []
                for n in range(len(said)):
                    x1, y1, x2, y2 = said.boxes[n].tolist()
                    scale = torch.tensor([max(x2 - x1, 1), max(y2 - y1, 1)] * 2) * method.jitter_scale
                    around = said.boxes[n] + noise[:, n] * scale
                    deltas = by_class(teacher.score_rois(of_teacher, [around]).box_deltas)[:, int(said.classes[n]) + 1]
                    moved = clip_boxes(box_coder.decode_single(deltas, around), weak.height, weak.width)
                    mean = moved.mean(dim=0)
                    sides = torch.stack([mean[2] - mean[0], mean[3] - mean[1]] * 2).clamp(min=1)
                    spreads.append((moved.std(dim=0) / sides).mean())
                spreads = torch.stack(spreads) if spreads else torch.zeros(0)
            original = decode(data.unlabeled.file_at(int(i)))
            pixels, strong = recipe.student(
                (pixels, weak), lambda original=original: original, stream(seed, "strong", name, step, slot)
            )
            boxes = carried(said.boxes, weak, strong)
            usable = is_usable(boxes, config.data.views.min_box_px)
            boxes, classes, scores, spreads = boxes[usable], said.classes[usable], said.scores[usable], spreads[usable]
            gates = {
                "rpn": scores > method.rpn_pseudo_threshold,
                "cls": scores > method.cls_pseudo_threshold,
                "reg": spreads < method.box_spread_threshold,
            }
            seen_gates["carried"] += len(boxes)
            for gate, mask in gates.items():
                seen_gates[gate] += int(mask.sum())
            targets = {gate: Target.truth(boxes[mask], classes[mask]) for gate, mask in gates.items()}
            rng = stream(seed, "sampling", "unlabeled", name, step)
            images = collate([pixels], CPU)
            features = student.features(images)
            anchors = student.score_anchors(features)
            cls, reg, _ = rpn_losses(anchors, [targets["rpn"].boxes], [rng], matcher=student.rpn.matcher, config=model)
            (proposals,) = student.propose(anchors, images, "train")
            drawn, labels, _, scored = rois(features, proposals, targets["cls"], rng)
            seen_gates["foreground"] += int((labels > 0).sum())
            with torch.no_grad():
                back = carried(drawn, strong, weak)
                background = teacher.score_rois(of_teacher, [back]).class_logits.softmax(dim=1)[:, 0]
            weights = torch.where(labels > 0, 1.0, background)
            own = rois(features, proposals, targets["reg"], stream(seed, "sampling-boxes", "unlabeled", name, step))
            sums["rpn_cls"] += cls.sum()
            sums["rpn_reg"] += reg.sum()
            sums["roi_cls"] += (weights * cross_entropy(scored.class_logits, labels)).sum()
            sums["roi_reg"] += box_loss(*own)
            counts["anchors"] += model.rpn_batch
            counts["roi_cls"] += float(weights.sum())
            counts["roi_reg"] += len(own[1])
        terms |= {f"unsup/{key}": value / counts[divisors[key]] for key, value in sums.items()}
        loss = sum(value * (method.unsup_weight if key.startswith("unsup") else 1) for key, value in terms.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append({name: float(value.detach()) for name, value in terms.items()})
    return history, student, seen_gates


def test_the_engine_trains_exactly_as_soft_teacher_says(tmp_path: Path):
    # The reference sees images one by one, the engine all views in one frame: with one short side, padding is the same.
    config = tiny_soft(
        tmp_path / "run",
        model__roi_fg_iou=0.3,
        optim__lr=3e-3,
        method={"views": {"short_side": [64, 64]}},
    )
    folder = launch(config)
    expected, student, gates = reference(config, BOXES.open(folder.data))
    assert gates["carried"] > gates["cls"] > gates["rpn"] > 0, gates
    assert 0 < gates["reg"] < gates["carried"], gates
    assert gates["foreground"] > 0, gates
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    assert len(steps) == config.optim.steps
    for line, terms in zip(steps, expected, strict=True):
        for key, value in terms.items():
            assert line[f"loss/{key}/raw"] == pytest.approx(value, rel=5e-4, abs=2e-6), (line["step"], key)
    checkpoint = latest_checkpoint(folder.checkpoints)
    assert checkpoint is not None
    for key, weight in checkpoint.tensors("student").items():
        torch.testing.assert_close(weight, student.state_dict()[key], rtol=2e-3, atol=5e-5)


def test_soft_teacher_is_a_method_of_its_own_with_its_papers_defaults():
    method = build_method(tiny_soft(Path("unused")))
    assert isinstance(method, SoftTeacher)
    fresh = type(method.config)()
    assert (fresh.cls_pseudo_threshold, fresh.rpn_pseudo_threshold, fresh.pseudo_score_floor) == (0.9, 0.9, 0.5)
    assert (fresh.box_spread_threshold, fresh.jitter_times, fresh.jitter_scale) == (0.02, 10, 0.06)
    assert (fresh.unsup_weight, fresh.ema_keep_rate, fresh.burn_in_steps) == (4.0, 0.999, 0)
