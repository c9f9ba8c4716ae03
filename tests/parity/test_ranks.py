"""One rank with the whole batch against two ranks with half of it each, in real processes: the same gradient.

The batch is made so that naive averaging over ranks would be wrong: all pseudo-boxes are on rank 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from raydet.data.order import own_slots
from raydet.families.detection.batch import StudentBatch, ViewedImage
from raydet.families.detection.config import DetectionConfig
from raydet.group import Group
from raydet.records import Target
from raydet.registry import build_method
from raydet.train.step import StepModule, backward, wrap
from raydet.vision.geometry import View
from tests.helpers import tiny_config

CPU = torch.device("cpu")
CLASSES = 3
LABELED_BOXES, PSEUDO_BOXES = (1, 4, 2, 1), (3, 1, 0, 0)  # per image; rank 0 has the first two of each

Result = dict[str, Tensor]  # "raw" and every gradient by parameter name


def config(**changes: object) -> DetectionConfig:
    return tiny_config(Path("unused"), **changes)


def target(number: int, seed: int) -> Target:
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(number, 2, generator=rng) * torch.tensor([60.0, 30.0])
    side = 12 + torch.rand(number, 2, generator=rng) * 20
    return Target.truth(torch.cat([corner, corner + side], dim=1), torch.randint(CLASSES, (number,), generator=rng))


def view(name: str, copy: int) -> ViewedImage:
    rng = torch.Generator().manual_seed(sum(map(ord, name)) * 10 + copy)
    pixels = torch.randint(256, (3, 64, 96), dtype=torch.uint8, generator=rng)
    role = "unlabeled" if name.startswith("unlabeled") else ("labeled-strong", "labeled-weak")[copy]
    return ViewedImage(name, pixels, View.identity(64, 96), Target.empty(), role, slot=int(name[-1]))


def batch_of(rank: int, world: int) -> StudentBatch:
    """Return a rank's contiguous share of the global batch: 4 labelled images as 8 views, 4 unlabelled ones."""
    slots = own_slots(4, rank, world)
    share = slice(slots.start, slots.stop)
    names = [f"labeled-{i}" for i in range(4)][share]
    targets = [target(number, i) for i, number in enumerate(LABELED_BOXES)][share]
    pseudo = [target(number, 10 + i) for i, number in enumerate(PSEUDO_BOXES)][share]
    views = [*(view(name, 0) for name in names), *(view(name, 1) for name in names)]
    views += [view(f"unlabeled-{i}", 0) for i in range(4)][share]
    return StudentBatch(7, tuple(views), (*targets, *targets, *pseudo), num_labeled=2 * len(names))


@dataclass
class Rank:
    """A rank with a fresh student."""

    group: Group
    run: DetectionConfig

    def __post_init__(self) -> None:
        method = build_method(self.run)
        torch.manual_seed(1)
        self.student = method.build_model(CLASSES).train()
        self.module = StepModule(self.student, method, device=CPU, dtype=None)
        self.weights = torch.tensor(list(method.loss_weights.values()))
        self.names = tuple(method.loss_weights)

    def step(self, module: torch.nn.Module, accumulate: int = 1) -> Result:
        batch = batch_of(self.group.rank, self.group.world)
        self.student.zero_grad()
        losses = backward(module, batch, self.weights, self.group, names=self.names, accumulate=accumulate)
        trained_on = losses.raw[self.weights > 0]  # the rest is for the log
        return {"raw": trained_on, **{name: p.grad.clone() for name, p in self.student.named_parameters()}}


def one_rank(accumulate: int = 1, **changes: object) -> Result:
    rank = Rank(Group(), config(**changes))
    return rank.step(rank.module, accumulate)


def _work(number: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=world)
    rank = Rank(Group(number, world), config())
    wrapped = wrap(rank.module)
    results = {
        "whole": rank.step(wrapped),
        "in two passes": rank.step(wrapped, accumulate=2),
        "around the wrapper": rank.step(wrapped.module),  # the trap: DDP's forward is not called
    }
    torch.save(results, f"{folder}/{number}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Result]]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(_work, args=(2, str(folder)), nprocs=2)
    return [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(2)]


def largest_difference(one: Result, other: Result) -> float:
    """Return the largest difference of any tensor, relative to the tensor's largest entry."""
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).abs().max() / one[k].abs().max().clamp(min=1e-6)) for k in one)


def test_two_ranks_have_the_gradient_of_one(two_ranks: list[dict[str, Result]]):
    expected = one_rank()
    assert all(bool(value.abs().sum() > 0) for value in expected.values())  # every parameter takes part
    for rank in two_ranks:
        assert largest_difference(expected, rank["whole"]) < 1e-4


def test_two_ranks_in_two_passes_have_the_gradient_of_one(two_ranks: list[dict[str, Result]]):
    expected = one_rank()
    for rank in two_ranks:
        assert largest_difference(expected, rank["in two passes"]) < 1e-4


def test_a_loss_around_the_wrapper_would_train_each_rank_alone(two_ranks: list[dict[str, Result]]):
    first, second = (rank["around the wrapper"] for rank in two_ranks)
    assert torch.allclose(first["raw"], second["raw"])  # nothing in the losses shows it
    assert largest_difference(first, second) > 0.1


def test_passes_change_nothing_where_every_image_yields_its_full_number_of_samples():
    # 40 proposals, most of them background, for 16 samples per image.
    assert largest_difference(one_rank(), one_rank(accumulate=2)) < 1e-4
    assert largest_difference(one_rank(), one_rank(accumulate=4)) < 1e-4


def test_passes_change_little_where_images_yield_fewer_samples():
    # ILNET-D3: 64 RoIs are wanted, an image has 40 proposals and 0 to 4 true boxes, so passes differ in count.
    wanting = {"model__roi_batch": 64}
    whole, parts = one_rank(**wanting), one_rank(accumulate=2, **wanting)
    assert parts["raw"].tolist() == pytest.approx(whole["raw"].tolist(), rel=0.1)
    assert not torch.equal(parts["raw"], whole["raw"])
