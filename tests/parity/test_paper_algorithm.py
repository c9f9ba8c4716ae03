"""The engine against a straight line: `lookahead=0, publish_every=1` is the papers' algorithm.

The reference below knows nothing of schedules, sources, stores, records in original pixels, sums and counts: it is
section 3 of the IL-net paper (and of Unbiased Teacher) written down as one loop.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from raydet.data.decode import decode
from raydet.data.order import BatchOrder
from raydet.families.detection.config import DetectionConfig, IlNetConfig
from raydet.families.detection.data import BOXES, PreparedBoxes
from raydet.families.detection.gates import after_nms
from raydet.families.detection.iou_branch import IoUDetector, iou_pass
from raydet.families.detection.passes import train_pass
from raydet.families.detection.views import strong_view, weak_view
from raydet.randomness import stream
from raydet.records import Candidates, Target
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.launch import launch
from raydet.vision.detector import Detector
from raydet.vision.geometry import clip_boxes, is_usable
from raydet.vision.images import collate
from tests.helpers import tiny_config

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Gated:
    """What the gate did to one image's candidates, as far as it can be told afterwards whether it was there at all."""

    dropped: int  # candidates sure enough to become pseudo-boxes that it dropped
    kept: int  # and that it kept though the best class of their RoI is not background
    matters: bool  # whether other boxes would be left without it
    order_matters: bool  # whether other boxes would be left if it came after NMS
    margin: float  # least distance of their qualities to theta: rounding must not decide

    @staticmethod
    def by(said: Candidates, method: IlNetConfig) -> Gated:
        theta = method.iou_filter_threshold

        def left(rows: Candidates) -> list[list[float]]:
            return rows.where(rows.scores > method.score_threshold).boxes.tolist()

        sure = said.where((said.scores > method.score_threshold) & (said.quality < 1))
        distinct = after_nms(said, 0.5, 100)
        papers = left(after_nms(said.where(said.quality > theta), 0.5, 100))
        return Gated(
            dropped=int((sure.quality <= theta).sum()),
            kept=int((sure.quality > theta).sum()),
            matters=papers != left(distinct),
            order_matters=papers != left(distinct.where(distinct.quality > theta)),
            margin=float((sure.quality - theta).abs().amin()) if len(sure) else 1.0,
        )


def reference(
    config: DetectionConfig, data: PreparedBoxes
) -> tuple[list[dict[str, float]], Detector, Detector, list[Gated]]:
    """Train as the paper says; return the raw losses of each step, the student, the last teacher and its gate."""
    method, optim, seed, views = config.method, config.optim, config.seed, config.data.views
    has_branch = method.name == "il_net"
    torch.manual_seed(seed)
    student = Detector(config.model, len(data.class_names))
    if has_branch:
        torch.manual_seed(seed)
        student = IoUDetector(
            config.model,
            len(data.class_names),
            branch=method.iou_branch,
            target_threshold=method.iou_target_threshold,
        )
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

    def losses(pixels, targets, names, step, roles):
        rngs = [stream(seed, "sampling", role, name, step) for role, name in zip(roles, names, strict=True)]
        found = train_pass(student, collate(pixels, CPU), targets, rngs)
        rpn, roi = config.model.rpn_batch * len(pixels), found.roi.num_rois.sum()  # the papers' divisors
        terms = {"rpn_cls": found.rpn.cls.sum() / rpn, "rpn_reg": found.rpn.reg.sum() / rpn}
        terms |= {"roi_cls": found.roi.cls().sum() / roi, "roi_reg": found.roi.reg().sum() / roi}
        return terms | ({"iou": iou_pass(student, found.roi, found.boxes).loss.sum() / roi} if has_branch else {})

    teacher, history, gated = None, [], []
    for step in range(optim.steps):
        weak, strong, truth, names = [], [], [], []
        for slot, i in enumerate(orders["labeled"].positions(step)):
            name, target = data.labeled.id_at(int(i)), data.labeled.target_at(int(i))
            pixels, view = weak_view(
                decode(data.labeled.file_at(int(i))), views, stream(seed, "labeled-weak", name, step, slot)
            )
            boxes = clip_boxes(view.to_view(target.boxes), view.height, view.width)
            weak.append(pixels)
            strong.append(strong_view(pixels, views, stream(seed, "labeled-strong", name, step, slot)))
            usable = is_usable(boxes, views.min_box_px)
            truth.append(Target.truth(boxes[usable], target.classes[usable]))
            names.append(name)
        roles = ["labeled-strong"] * len(names) + ["labeled-weak"] * len(names)
        supervised = losses(strong + weak, truth + truth, names + names, step, roles)
        terms = {f"sup/{name}": value for name, value in supervised.items()}
        loss = sum(supervised.values())
        if step >= method.burn_in_steps:
            if step == method.burn_in_steps:
                teacher = copy.deepcopy(student)
            else:  # before the optimiser step: the teacher absorbs students up to step - 1
                with torch.no_grad():
                    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
                        old.copy_(method.ema_keep_rate * old + (1 - method.ema_keep_rate) * new)
            seen, pseudo, names = [], [], []
            for slot, i in enumerate(orders["unlabeled"].positions(step)):
                name = data.unlabeled.id_at(int(i))
                pixels, _ = weak_view(decode(data.unlabeled.file_at(int(i))), views, stream(seed, "weak", name, step))
                with torch.no_grad():
                    (said,) = teacher.candidates(
                        collate([pixels], CPU), proposals="train", score_floor=0.05, top_k=10**6
                    )
                if has_branch:
                    gated.append(Gated.by(said, method))
                    said = said.where(said.quality > method.iou_filter_threshold)  # before NMS
                said = after_nms(said, 0.5, 100)
                said = said.where(said.scores > method.score_threshold)
                pseudo.append(Target(said.boxes, said.classes, said.scores, said.quality))
                seen.append(strong_view(pixels, views, stream(seed, "strong", name, step, slot)))
                names.append(name)
            unsupervised = losses(seen, pseudo, names, step, ["unlabeled"] * len(names))  # a second forward
            alpha = method.unsup_cls_weight
            loss = loss + alpha * (unsupervised["rpn_cls"] + unsupervised["roi_cls"])
            if has_branch:
                loss = loss + method.unsup_reg_weight * (unsupervised["rpn_reg"] + unsupervised["roi_reg"])
                loss = loss + method.unsup_iou_weight * unsupervised["iou"]
            terms |= {f"unsup/{name}": value for name, value in unsupervised.items()}
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append({name: float(value.detach()) for name, value in terms.items()})
    return history, student, teacher, gated


def compare(config: DetectionConfig) -> list[Gated]:
    """Train by the engine and by the straight line, and compare losses and weights; return what the gate did."""
    folder = launch(config)
    expected, student, teacher, gated = reference(config, BOXES.open(folder.data))
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    assert len(steps) == config.optim.steps
    assert any(line.get("pseudo/boxes_per_image", 0) > 0 for line in steps), "the test needs pseudo-boxes"
    for line, terms in zip(steps, expected, strict=True):
        for key, value in terms.items():
            assert line[f"loss/{key}/raw"] == pytest.approx(value, rel=2e-4, abs=1e-6), (line["step"], key)
    checkpoint = latest_checkpoint(folder.checkpoints)
    for key, value in checkpoint.tensors("student").items():
        torch.testing.assert_close(value, student.state_dict()[key], rtol=1e-3, atol=2e-5)
    keep = config.method.ema_keep_rate  # the engine's teacher has absorbed the last student too
    for key, value in checkpoint.tensors("teacher").items():
        absorbed = keep * teacher.state_dict()[key] + (1 - keep) * student.state_dict()[key]
        torch.testing.assert_close(value, absorbed, rtol=1e-3, atol=2e-5)
    return gated


@pytest.mark.parametrize("name", ["il_net", "unbiased_teacher"])
def test_the_engine_trains_exactly_as_the_paper_says(name: str, tmp_path: Path):
    overrides = {} if name == "il_net" else {"method": {"name": name, "burn_in_steps": 3, "score_threshold": 0.16}}
    compare(tiny_config(tmp_path / "run", method__ema_keep_rate=0.5, **overrides))


def test_the_engine_gates_exactly_as_the_paper_says(tmp_path: Path):
    # The run above is too short for the gate to act: the best class of almost every RoI is background, which passes.
    # Here nearly all sampled RoIs are foreground, mu is low and the learning rate high, so that classes are sure of
    # themselves and their qualities lie on both sides of theta.
    config = tiny_config(
        tmp_path / "run",
        seed=5,
        model__roi_fg_iou=0.1,
        model__roi_positive_fraction=0.8,
        optim__lr=5e-3,
        method__ema_keep_rate=0.5,
        method__iou_target_threshold=0.3,
        method__iou_filter_threshold=0.51,
    )
    gated = compare(config)
    assert sum(each.dropped for each in gated) > 0, "the test needs boxes that the gate drops"
    assert sum(each.kept for each in gated) > 0, "the test needs foreground boxes that the gate keeps"
    assert any(each.matters for each in gated), "the test needs pseudo-boxes that only the gate prevents"
    assert any(each.order_matters for each in gated), "the test needs a case in which the gate must come before NMS"
    assert min(each.margin for each in gated) > 1e-4, "a quality is too close to theta for a comparison of two runs"
