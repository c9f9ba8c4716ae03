"""Whole steps of gradient-based sampling against a straight line that shares none of its arithmetic: from the matrix to
class weights, thresholds and the losses that they change, past the warm-up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import BOXES
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.launch import launch
from tests.parity.soft_reference import Rules, reference
from tests.training.balanced import sampled

RANDOM = {"labeled_sampling": "random", "unlabeled_sampling": "random", "views": {"short_side": [64, 64]}}


class Balanced(Rules):
    """GbR (Jacobi) and GbT, class by class, with autograd's own slopes."""

    def __init__(self, config: DetectionConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        n = num_classes + 1
        self.matrix = torch.zeros(n, n)  # C: row: class of the RoI, column: logit
        self.a, self.velocity = [0.0] * n, [0.0] * n
        self.mean = 1.0
        self.scores, self.seen = [0.0] * num_classes, [0] * num_classes
        self.history: list[tuple[list[float], list[float]]] = []
        self._begin()

    def _begin(self) -> None:
        n = self.num_classes + 1
        self.slopes = torch.zeros(n, n)
        self.used: dict[str, list[float]] = {"labeled": [], "unlabeled": []}
        self.heard: list[list[float]] = [[] for _ in range(self.num_classes)]

    def weights(self) -> list[float]:
        """w = (number of classes met) softmax(a) over them, between 1/3 and 5, background at most 1."""
        met = [k for k in range(len(self.a)) if self.matrix[k, k] < 0]
        whole = sum(float(torch.tensor(self.a[k]).exp()) for k in met)
        found = [1.0] * len(self.a)
        for k in met:
            found[k] = min(max(len(met) * float(torch.tensor(self.a[k]).exp()) / whole, 1 / 3), 1.0 if k == 0 else 5.0)
        return found

    def thresholds(self, step: int) -> list[float]:
        """theta_i = min(theta s_i / mean s, theta / w_i), between the floor and theta."""
        theta, floor = self.method.cls_pseudo_threshold, self.method.pseudo_score_floor
        if step < self.method.gbt_warmup_steps:
            return [theta] * self.num_classes
        w, mean = self.weights(), sum(self.scores) / self.num_classes
        both = [min(theta * s / mean, theta / w[k + 1]) for k, s in enumerate(self.scores)]
        return [min(max(each, floor), theta) for each in both]

    def theta(self, step: int, classes: torch.Tensor) -> torch.Tensor:
        found = self.thresholds(step)
        return torch.tensor([found[int(k)] for k in classes])

    def said(self, scores: torch.Tensor, classes: torch.Tensor) -> None:
        for score, k in zip(scores.tolist(), classes.tolist(), strict=True):
            self.heard[k].append(score)

    def roi_loss(self, step: int, group: str, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> Any:
        is_labeled = group == "labeled"
        plain = logits.detach().clone().requires_grad_()

        def focal(given: torch.Tensor) -> torch.Tensor:
            p = given.softmax(dim=1)[torch.arange(len(labels)), labels]
            return -((1 - p) ** self.method.cls_focal_exponent) * p.log() * weights

        (slope,) = torch.autograd.grad(focal(plain).sum(), plain)
        batch = self.config.optim.labeled_batch if is_labeled else self.config.optim.unlabeled_batch
        share = (1.0 if is_labeled else self.method.unsup_weight) * 100 / (batch * self.config.model.roi_batch)
        for row, k in zip(slope, labels.tolist(), strict=True):
            self.slopes[k] += share * row
        w = self.weights() if step >= self.method.gbr_warmup_steps else [1.0] * len(self.a)
        own = [w[k] ** (self.method.labeled_weight_exponent if is_labeled else 1) for k in labels.tolist()]
        self.used[group] += own
        return (focal(logits) * torch.tensor(own) / self.mean).sum()

    def end(self, step: int) -> None:
        ema, warm_up = self.method.gbr_ema, self.method.gbr_warmup_steps
        keep = ema if step >= warm_up else 1 - 1 / (step + 1)
        self.matrix = keep * self.matrix + (1 - keep) * self.slopes
        both = [sum(own) / len(own) for own in self.used.values()]
        self.mean = ema * self.mean + (1 - ema) * sum(both) / 2
        for k, heard in enumerate(self.heard):
            average = sum(heard) / max(len(heard), 1)  # all detections of a step count as if each had their mean
            for _ in heard:
                old = self.scores[k]
                self.scores[k] = old + average / 1000 if self.seen[k] < 1000 else ema * old + (1 - ema) * average
                self.seen[k] += 1
        if step >= warm_up:
            self._move(step)
        self.history.append((self.weights(), self.thresholds(step + 1)))
        self._begin()

    def _move(self, step: int) -> None:
        """One step of SGD on L_jacobi, for labelled images and unsup_weight times for unlabelled ones."""
        n, c = len(self.a), self.matrix.tolist()
        met = [k for k in range(n) if c[k][k] < 0]
        whole = sum(float(torch.tensor(self.a[k]).exp()) for k in met)
        w = [len(met) * float(torch.tensor(self.a[k]).exp()) / whole if k in met else 1.0 for k in range(n)]
        targets = {i: sum(w[k] * c[k][i] for k in range(n) if k != i) / (1e-6 - c[i][i]) for i in met}
        if 0 in met:  # background takes what the others leave
            targets[0] = len(met) - sum(value for i, value in targets.items() if i)
        for i, value in targets.items():
            wanted = float(torch.tensor(min(max(value, 1 / 3), 1.0 if i == 0 else 5.0)).log())
            slope = 2 / len(met) * (self.a[i] - wanted) * (1 + self.method.unsup_weight)
            self.velocity[i] = self.config.optim.momentum * self.velocity[i] + slope
            self.a[i] -= self.method.weight_logits_lr * self.velocity[i]


class Solved(Balanced):
    """GbR by the equations themselves, solved from time to time: one of them follows from the others and makes room for
    the sum."""

    def __init__(self, config: DetectionConfig, num_classes: int) -> None:
        self.solution = [1.0] * (num_classes + 1)
        super().__init__(config, num_classes)

    def weights(self) -> list[float]:
        """The solution between 1/3 and 5, background at most 1."""
        return [min(max(w, 1 / 3), 1.0 if k == 0 else 5.0) for k, w in enumerate(self.solution)]

    def _move(self, step: int) -> None:
        if (step - self.method.gbr_warmup_steps) % self.method.gbr_solve_every_steps:
            return
        met = [k for k in range(len(self.a)) if self.matrix[k, k] < 0]
        own = self.matrix.double()[met][:, met]
        for k in range(len(met)):  # what goes to classes that were never met is not pushed anywhere
            own[k, k] -= own[k].sum()
        equations, wanted = own.T.clone(), torch.zeros(len(met), dtype=torch.float64)
        equations[-1], wanted[-1] = 1.0, float(len(met))
        self.solution = [1.0] * len(self.a)
        for k, w in zip(met, torch.linalg.solve(equations, wanted).tolist(), strict=True):
            self.solution[k] = w


@pytest.mark.parametrize("solver", ["jacobi", "direct", "stationary"])
def test_the_engine_balances_exactly_as_the_paper_says(solver: str, tmp_path: Path) -> None:
    method = {**RANDOM, "gbr_solver": solver, "gbr_solve_every_steps": 2}
    config = sampled(tmp_path / "run", method=method, model__roi_fg_iou=0.3, optim__lr=3e-3)
    folder = launch(config)
    data = BOXES.open(folder.data)
    rules = (Balanced if solver == "jacobi" else Solved)(config, len(data.class_names))
    expected, student, gates = reference(config, data, rules)
    assert gates["foreground"] > 0 and gates["carried"] > gates["cls"] > 0, gates
    weights, thresholds = rules.history[-1]
    assert max(weights) - min(weights) > 0.05 and max(thresholds) - min(thresholds) > 0.005, rules.history[-1]
    steps = [json.loads(line) for line in folder.metrics.read_text().splitlines() if '"kind": "step"' in line]
    assert len(steps) == config.optim.steps > 2
    for line, terms in zip(steps, expected, strict=True):
        for key, value in terms.items():
            assert line[f"loss/{key}/raw"] == pytest.approx(value, rel=5e-4, abs=2e-6), (line["step"], key)
    checkpoint = latest_checkpoint(folder.checkpoints)
    assert checkpoint is not None
    memory = checkpoint.tensors("memory")
    torch.testing.assert_close(memory["matrix"], rules.matrix, rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(memory["weight_logits"], torch.tensor(rules.a), rtol=2e-3, atol=1e-4)
    if isinstance(rules, Solved):
        torch.testing.assert_close(memory["solved"], torch.tensor(rules.solution), rtol=2e-3, atol=1e-3)
    assert float(memory["mean_weight"]) == pytest.approx(rules.mean, rel=1e-4)
    assert memory["class_scores"].tolist() == pytest.approx(rules.scores, rel=1e-3, abs=1e-6)
    for key, weight in checkpoint.tensors("student").items():
        torch.testing.assert_close(weight, student.state_dict()[key], rtol=2e-3, atol=5e-5)
