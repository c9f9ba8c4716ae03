"""Gradient-based sampling on one rank and on two: the same statistics, weights, thresholds and listings."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raydet.contract import sizes_of
from raydet.data.order import own_slots
from raydet.families.detection.batch import StudentBatch, ViewedImage
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import BOXES
from raydet.families.detection.methods.gradient_sampling import GradientSampling
from raydet.group import Group
from raydet.records import PseudoBoxes, Target, TeacherRef
from raydet.registry import build_method
from raydet.train.step import StepModule, backward, wrap
from raydet.vision.geometry import View
from tests.helpers import tiny_soft

CPU, CLASSES, STEPS = torch.device("cpu"), 6, 4
METHOD = {
    "name": "gradient_sampling",
    "gbr_warmup_steps": 2,
    "gbt_warmup_steps": 1,
    "crs_warmup_steps": 0,
    "crs_rebuild_steps": 4,
    "crs_repeat_threshold_max": 400.0,
    "gbr_ema": 0.9,
    "weight_logits_lr": 0.1,
}


def config(folder: Path) -> DetectionConfig:
    return tiny_soft(folder, method=METHOD)


def rng(*key: object) -> torch.Generator:
    return torch.Generator().manual_seed(sum(map(ord, str(key))) * 7)


def boxes(number: int, *key: object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random boxes inside 64 x 96 pixels, classes, and scores in descending order."""
    draw = rng(*key)
    corner = torch.rand(number, 2, generator=draw) * torch.tensor([60.0, 30.0])
    side = 12 + torch.rand(number, 2, generator=draw) * 20
    scores = torch.rand(number, generator=draw).sort(descending=True).values
    return torch.cat([corner, corner + side], 1), torch.randint(CLASSES, (number,), generator=draw), scores


def viewed(name: str, role: str, slot: int) -> ViewedImage:
    pixels = torch.randint(256, (3, 64, 96), dtype=torch.uint8, generator=rng(name, role))
    return ViewedImage(name, pixels, View.identity(64, 96), Target.empty(), role, slot)


def batch_of(step: int, rank: int, world: int) -> StudentBatch:
    """Return a rank's share of 4 labelled and 4 unlabelled images; all sure pseudo-boxes are of rank 0."""
    slots = list(own_slots(4, rank, world))
    views = [viewed(f"l{step}-{i}", "labeled", i) for i in slots]
    targets = [Target.truth(*boxes((1, 4, 2, 1)[i], "l", step, i)[:2]) for i in slots]
    views += [viewed(f"u{step}-{i}", "unlabeled", i) for i in slots]
    labels = []
    for i in slots:
        found, classes, scores = boxes(6, "u", step, i)
        scores = scores if i < 2 else scores * 0.15
        said = PseudoBoxes(f"u{step}-{i}", TeacherRef(step, ""), found, classes, scores, torch.ones(6), 0.05)
        labels.append(said)
        kept = said.where(said.scores > 0.17)
        targets.append(Target(kept.boxes, kept.classes, kept.scores, kept.quality))
    seen = tuple(viewed(f"u{step}-{i}", "weak", 0) for i in slots)
    return StudentBatch(step, tuple(views), tuple(targets), len(slots), seen, tuple(labels))


def labels_of(rank: int, world: int) -> Iterator[tuple[int, PseudoBoxes]]:
    """Yield a rank's share of the labels of 14 images."""
    for row in range(rank, 14, world):
        found, classes, scores = boxes(3, "pool", row)
        yield row, PseudoBoxes(f"u{row}", TeacherRef(0, ""), found, classes, scores, torch.ones(3), 0.05)


def trained(group: Group, folder: Path, *, parts: int = 1) -> dict[str, torch.Tensor]:
    """Make some steps with a student that never moves; return the raw losses of each, and the state at the end."""
    run = config(folder)
    data = BOXES.open(folder / "data")
    method = build_method(run)
    assert isinstance(method, GradientSampling)
    torch.manual_seed(1)
    student = method.build_model(CLASSES).train()
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    module: Any = StepModule(student, method, device=CPU, dtype=None)
    module = wrap(module) if group.world > 1 else module
    names, weights = tuple(method.loss_weights), torch.tensor(list(method.loss_weights.values()))
    state = method.build_state(sizes_of(data))
    found = {}
    with patch.object(dist, "all_reduce", wraps=dist.all_reduce) as reduce:
        for step in range(STEPS):
            batch = batch_of(step, group.rank, group.world)
            losses = backward(
                module, batch, weights, group, names=names, teacher=teacher, state=state, accumulate=parts
            )
            method.update(state, batch, losses.per_view, losses.sums, group)
            found[f"raw {step}"] = losses.raw[weights > 0]
    if group.world > 1:  # but for DistributedDataParallel's own, which is none of Python's
        found["reductions"] = torch.tensor(reduce.call_count)
    method.rebuild(state, sizes_of(data), STEPS, labels_of(group.rank, group.world), group)
    return {**found, **{name: value.double() for name, value in state.tensors().items()}}


def _work(number: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=world)
    torch.save(trained(Group(number, world), Path(folder)), f"{folder}/{number}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ranks")
    BOXES.prepare(config(made).data, made / "data")
    return made


def test_statistics_weights_and_listings_are_the_same_on_one_rank_and_on_two(folder: Path):
    alone = trained(Group(), folder)
    assert int(alone["updates"]) == STEPS and float(alone["weight_logits"].abs().max()) > 0.01
    assert float(alone["class_scores"].max()) > 0
    assert alone["first_steps"].tolist() == [-1, 4] and float(alone["repeats"].max()) >= 2
    mp.spawn(_work, args=(2, str(folder)), nprocs=2)
    ranks = [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(2)]
    for name, value in alone.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), f"{name}: the ranks differ"
        torch.testing.assert_close(ranks[0][name], value, rtol=2e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert torch.equal(ranks[0]["repeats"], alone["repeats"])  # to the bit: order depends on it
    assert int(ranks[0]["reductions"]) == STEPS  # the matrix rides in the one sum of losses and counts of every step


def test_a_step_in_two_passes_has_the_statistics_of_one(folder: Path):
    whole, parts = trained(Group(), folder), trained(Group(), folder, parts=2)
    for name in ("matrix", "weight_logits", "class_scores", "detections", "mean_weight", "repeats"):
        torch.testing.assert_close(parts[name], whole[name], rtol=2e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
