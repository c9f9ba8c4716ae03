"""Soft Teacher as a straight line, one image after the other: with this the engine's runs are compared."""

from __future__ import annotations

import copy
from typing import Any

import torch

from raydet.data.decode import decode
from raydet.data.order import BatchOrder
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import PreparedBoxes
from raydet.families.detection.gates import after_nms
from raydet.families.detection.soft_views import OwnGeometry
from raydet.randomness import stream
from raydet.records import Target
from raydet.vision.detector import Detector
from raydet.vision.geometry import View, clip_boxes, is_usable
from raydet.vision.images import collate
from raydet.vision.losses import box_regression, cross_entropy
from raydet.vision.matching import match, sample
from raydet.vision.roi import box_coder, by_class
from raydet.vision.rpn import rpn_losses

CPU = torch.device("cpu")


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


class Rules:
    """What a method above Soft Teacher may change: here nothing."""

    def __init__(self, config: DetectionConfig, num_classes: int) -> None:
        self.config, self.method, self.num_classes = config, config.method, num_classes

    def theta(self, step: int, classes: torch.Tensor) -> torch.Tensor:
        """The threshold of each pseudo-box."""
        return torch.full((len(classes),), self.method.cls_pseudo_threshold)

    def roi_loss(self, step: int, group: str, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> Any:
        """The loss of an image's RoI classes, summed."""
        return (weights * cross_entropy(logits, labels)).sum()

    def said(self, scores: torch.Tensor, classes: torch.Tensor) -> None:
        """Hear of all that the teacher found in an image."""

    def end(self, step: int) -> None:
        """Learn from a step."""


def reference(
    config: DetectionConfig, data: PreparedBoxes, rules: Rules
) -> tuple[list[dict[str, float]], Detector, dict[str, Any]]:
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
        ((fg, bg),) = sample([matched], model.roi_batch, model.roi_positive_fraction, [rng])
        drawn = boxes[torch.cat([fg, bg])]
        labels = torch.cat([target.classes[matched[fg]] + 1, torch.zeros_like(bg)])
        said = student.score_rois(features, [drawn])
        return drawn, labels, target.boxes[matched[fg]], said

    def box_loss(drawn, labels, wanted, said):
        fg = labels > 0
        deltas = by_class(said.box_deltas)[fg, labels[fg]]
        return box_regression(deltas, box_coder.encode(wanted, drawn[fg]), model.box_loss).sum()

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
            (look,), view = recipe.labeled(
                decode(data.labeled.file_at(int(i))),
                lambda purpose, name=name, step=step, slot=slot: stream(seed, purpose, name, step, slot),
            )
            boxes = clip_boxes(view.to_view(truth.boxes), view.height, view.width)
            usable = is_usable(boxes, config.data.views.min_box_px)
            target, rng = (
                Target.truth(boxes[usable], truth.classes[usable]),
                stream(seed, "sampling", "labeled", name, step),
            )
            images = collate([look.pixels], CPU)
            features = student.features(images)
            anchors = student.score_anchors(features)
            cls, reg, _ = rpn_losses(anchors, [target.boxes], [rng], matcher=student.rpn.matcher, config=model)
            (proposals,) = student.propose(anchors, images, "train")
            found = rois(features, proposals, target, rng)
            sums["rpn_cls"] += cls.sum()
            sums["rpn_reg"] += reg.sum()
            sums["roi_cls"] += rules.roi_loss(
                step, "labeled", found[3].class_logits, found[1], torch.ones(len(found[1]))
            )
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
                rules.said(said.scores, said.classes)
                said = said.where(said.scores > method.pseudo_score_floor)
                noise = torch.randn(10, len(said), 4, generator=stream(seed, "annotate", name, step))
                spreads = []
                for n in range(len(said)):
                    x1, y1, x2, y2 = said.boxes[n].tolist()
                    scale = torch.tensor([max(x2 - x1, 1), max(y2 - y1, 1)] * 2) * method.jitter_scale
                    around = said.boxes[n] + noise[:, n] * scale
                    deltas = by_class(teacher.score_rois(of_teacher, [around]).box_deltas)[:, int(said.classes[n]) + 1]
                    moved = clip_boxes(box_coder.decode(deltas, around), weak.height, weak.width)
                    mean = moved.mean(dim=0)
                    sides = torch.stack([mean[2] - mean[0], mean[3] - mean[1]] * 2).clamp(min=1)
                    spreads.append((moved.std(dim=0) / sides).mean())
                spreads = torch.stack(spreads) if spreads else torch.zeros(0)
            original = decode(data.unlabeled.file_at(int(i)))
            look, strong = recipe.student(
                (pixels, weak), lambda original=original: original, stream(seed, "strong", name, step, slot)
            )
            boxes = carried(said.boxes, weak, strong)
            usable = is_usable(boxes, config.data.views.min_box_px)
            boxes, classes, scores, spreads = boxes[usable], said.classes[usable], said.scores[usable], spreads[usable]
            gates = {
                "rpn": scores > method.rpn_pseudo_threshold,
                "cls": scores > rules.theta(step, classes),
                "reg": spreads < method.box_spread_threshold,
            }
            seen_gates["carried"] += len(boxes)
            for gate, mask in gates.items():
                seen_gates[gate] += int(mask.sum())
            targets = {gate: Target.truth(boxes[mask], classes[mask]) for gate, mask in gates.items()}
            rng = stream(seed, "sampling", "unlabeled", name, step)
            images = collate([look.pixels], CPU)
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
            sums["roi_cls"] += rules.roi_loss(step, "unlabeled", scored.class_logits, labels, weights)
            sums["roi_reg"] += box_loss(*own)
            counts["anchors"] += model.rpn_batch
            counts["roi_cls"] += float(weights.sum())
            counts["roi_reg"] += len(own[1])
        terms |= {f"unsup/{key}": value / counts[divisors[key]] for key, value in sums.items()}
        loss = sum(value * (method.unsup_weight if key.startswith("unsup") else 1) for key, value in terms.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rules.end(step)
        history.append({name: float(value.detach()) for name, value in terms.items()})
    return history, student, seen_gates
