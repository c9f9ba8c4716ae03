"""Whole runs of R2-D2 on one, two and four ranks, in real processes: the same images, views, labels and weights.

The network normalises each image by itself, so that nothing but rounding can differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from raydet.families.classification.batch import ClassBatch
from raydet.families.classification.config import ClassificationConfig
from raydet.families.classification.run import ClassificationRun
from raydet.group import Group
from raydet.registry import build_method, family_of
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.rundir import RunFolder
from raydet.train.step import StepModule, backward
from raydet.train.worker import local_source, train_rank
from tests.helpers import tiny_classes

CPU = torch.device("cpu")
SEEN = list[tuple[list[str], list[str], list[str]]]  # each step's ids of labelled and unlabelled images, and views

RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "in two passes": {"optim__accumulate": 2},
    "learning all labels": {
        "method__update_labeled": True,
        "method__labeled_logit_scale": 2.0,  # with 10 a label is too sure to move far
        "method__class_loss_type": "mse",
    },
    "batch norm": {"model__norm": "batch"},
}
PLANS = {4: ("plain",), 2: tuple(RUNS)}  # by number of ranks


def config(run: Path, name: str) -> ClassificationConfig:
    return tiny_classes(run, **RUNS[name])


def prepare(run: Path, name: str) -> None:
    family_of(config(run, name)).prepare(config(run, name), RunFolder(run).data)
    RunFolder(run).prepare(config(run, name), resume=False)


@contextmanager
def watched() -> Iterator[SEEN]:
    """Note which images and views this process trains on."""
    seen: SEEN = []
    real = ClassificationRun.assemble

    def assemble(self: ClassificationRun, *args: Any, **options: Any) -> Any:
        batch, stats = real(self, *args, **options)
        views = [hashlib.sha256(view.numpy().tobytes()).hexdigest() for view in batch.pixels]
        seen.append((batch.image_ids[: batch.num_labeled], batch.image_ids[batch.num_labeled :], views))
        return batch, stats

    ClassificationRun.assemble = assemble  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        ClassificationRun.assemble = real  # type: ignore[method-assign]


def train(run: Path, name: str, group: Group) -> SEEN:
    with watched() as seen:
        train_rank(config(run, name), group, local_source)
    return seen


def _work(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    for world, names in PLANS.items():
        if number >= world:
            continue
        meet = f"file://{folder}/meet-{world}"
        dist.init_process_group("gloo", init_method=meet, rank=number, world_size=world)
        for name in names:
            seen = train(Path(folder, f"{name} on {world}"), name, Group(number, world))
            torch.save(seen, f"{folder}/{name}-{world}-{number}.pt")
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs; those on two ranks use two of the four processes."""
    folder = tmp_path_factory.mktemp("ranks")
    for world, names in (*PLANS.items(), (1, tuple(RUNS))):
        for name in names:
            prepare(folder / f"{name} on {world}", name)
    mp.spawn(_work, args=(str(folder),), nprocs=4)
    for name in RUNS:
        torch.save(train(folder / f"{name} on 1", name, Group()), folder / f"{name}-1-0.pt")
    return folder


def seen_by(runs: Path, name: str, world: int) -> SEEN:
    """Return what all ranks of a run saw, in slot order."""
    ranks = [torch.load(runs / f"{name}-{world}-{number}.pt") for number in range(world)]
    joined = []
    for parts in zip(*ranks, strict=True):
        labeled = [image for part in parts for image in part[0]]
        unlabeled = [image for part in parts for image in part[1]]
        views = [view for part in parts for view in part[2][: len(part[0])]]
        views += [view for part in parts for view in part[2][len(part[0]) :]]
        joined.append((labeled, unlabeled, views))
    return joined


def saved(runs: Path, name: str, world: int) -> dict[str, Tensor]:
    checkpoint = latest_checkpoint(runs / f"{name} on {world}" / "checkpoints")
    assert checkpoint is not None and checkpoint.step == 20
    return {
        f"{part}/{key}": value
        for part in ("student", "optimizer", "memory")
        for key, value in checkpoint.tensors(part).items()
    }


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            other[name], value, rtol=1e-3, atol=2e-5, msg=lambda said, name=name: f"{name}: {said}"
        )


@pytest.mark.parametrize(("name", "world"), [(name, world) for world, names in PLANS.items() for name in names])
def test_any_number_of_ranks_sees_the_same_images_in_the_same_views(runs: Path, name: str, world: int):
    alone, together = seen_by(runs, name, 1), seen_by(runs, name, world)
    assert len(alone) == 20
    assert together == alone


@pytest.mark.parametrize(
    ("name", "world"), [(name, world) for world, names in PLANS.items() for name in names if name != "batch norm"]
)
def test_any_number_of_ranks_ends_with_the_same_labels_and_weights(runs: Path, name: str, world: int):
    alone, together = saved(runs, name, 1), saved(runs, name, world)
    assert torch.equal(together["memory/versions"], alone["memory/versions"])
    assert_close(together, alone)


def test_passes_of_a_step_end_with_the_same_labels_and_weights(runs: Path):
    plain, parts = saved(runs, "plain", 1), saved(runs, "in two passes", 1)
    assert_close(plain, parts)
    assert not torch.equal(plain["memory/logits"], saved(runs, "learning all labels", 1)["memory/logits"][:42])


def test_every_row_was_learned_and_the_sum_of_a_label_is_that_of_its_prediction(runs: Path):
    table = saved(runs, "learning all labels", 2)
    rows, versions = table["memory/logits"], table["memory/versions"]
    assert rows.shape == (42 + 12, 3)
    assert set(versions.tolist()) == {4, 10, 13}  # an epoch leaves some out, so a row may miss a reprediction
    torch.testing.assert_close(rows[42:].sum(1), torch.full((12,), 2.0))  # K, from the first step to the last
    assert float((rows[42:].amax(1) - 2).abs().min()) > 0.01  # though all have moved


def test_with_batch_norm_all_ranks_hold_the_same_model(runs: Path):
    """A checkpoint is only written where the digests of all ranks' students agree; statistics are part of them."""
    together = saved(runs, "batch norm", 2)
    means = [value for name, value in together.items() if name.endswith("running_mean")]
    assert means and all(bool(value.abs().sum() > 0) for value in means)
    alone = saved(runs, "batch norm", 1)
    assert not torch.equal(means[0], alone[next(name for name in alone if name.endswith("running_mean"))])


# one step, in passes of different sizes


def gradients(passes: int, step: int, **changes: Any) -> dict[str, Tensor]:
    method = build_method(tiny_classes(Path("unused"), **changes))
    torch.manual_seed(1)
    student = method.build_model(3).train()
    labeled, unlabeled = (5, 0) if step < 4 else (5, 8)  # two passes: 2 + 4 and 3 + 4 images
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (labeled + unlabeled, 3, 16, 16), dtype=torch.uint8, generator=rng)
    pseudo, classes = torch.randn(unlabeled, 3, generator=rng), torch.randint(3, (labeled,), generator=rng)
    batch = ClassBatch(step, [str(n) for n in range(labeled + unlabeled)], pixels, classes, pseudo)
    weights, names = torch.tensor(list(method.loss_weights.values())), tuple(method.loss_weights)
    module = StepModule(student, method, device=CPU, dtype=None)
    losses = backward(module, batch, weights, Group(), names=names, accumulate=passes)
    return {
        "raw": losses.raw,
        "logits": losses.per_view["logits"],
        **{n: p.grad for n, p in student.named_parameters()},
    }


@pytest.mark.parametrize("changes", [{}, {"method__labeled_loss": "ce"}, {"method": {"name": "mean_teacher"}}], ids=str)
@pytest.mark.parametrize("step", [2, 6, 17])
def test_unequal_passes_have_the_losses_gradients_and_logits_of_the_whole_step(changes: dict[str, Any], step: int):
    whole = gradients(1, step, **changes)
    for passes in (2, 3):
        parts = gradients(passes, step, **changes)
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6)
