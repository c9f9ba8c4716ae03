"""Pre-training by one rank and by two, in real processes. With synchronised batch norms two ranks have the gradient of
one, though theirs have different numbers of images; and norms of the joined batch, value by value."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from raydet.families.pretraining.assemble import assemble
from raydet.families.pretraining.batch import ViewBatch
from raydet.families.pretraining.config import PretrainingConfig
from raydet.families.pretraining.loader import StepViews
from raydet.families.pretraining.method import MOMENTS
from raydet.families.pretraining.views import three_views
from raydet.group import Group
from raydet.randomness import stream
from raydet.registry import build_method
from raydet.train.step import StepModule, backward, share_statistics, statistics_of, wrap
from raydet.vision.norms import SyncedBatchNorm1d, SyncedBatchNorm2d
from tests.helpers import tiny_views

CPU = torch.device("cpu")
IMAGES = 5  # two of rank 0, three of rank 1
METHODS: dict[str, dict[str, object]] = {
    "joint": {"name": "adept", "rpn_views": [1, 2], "backbone_loss": "det+rpn"},
    "stopped": {"name": "adept"},
    "own proposals": {"name": "adept", "det_proposals": "ss+rpn"},
    "soco": {"name": "soco"},
}

Result = dict[str, Tensor]


def config(name: str, sync: bool) -> PretrainingConfig:
    return tiny_views(Path("unused"), method=METHODS[name], model__sync_norms=sync)


def batch_of(rows: range, run: PretrainingConfig) -> ViewBatch:
    images = []
    for row in rows:
        pixels = torch.randint(0, 256, (3, 60, 72), dtype=torch.uint8, generator=stream(0, "pixels", row))
        proposals = torch.tensor([[5.0, 5, 40, 30], [20, 10, 60, 50], [0, 0, 70, 58]])
        images.append(three_views(pixels, proposals, run.data.views, 4, stream(0, "views", row)))
    return assemble(3, StepViews([f"i{row}" for row in rows], tuple(rows), images))[0]


def step(name: str, group: Group, *, sync: bool) -> Result:
    """Return losses, gradients and the statistics of norms after one step."""
    run = config(name, sync)
    method = build_method(run)
    torch.manual_seed(1)
    model = method.build_model(0).train()
    module = StepModule(model, method, device=CPU, dtype=None)
    rows = range(group.rank * IMAGES // group.world, (group.rank + 1) * IMAGES // group.world)
    found = backward(
        wrap(module) if group.world > 1 else module,
        batch_of(rows, run),
        torch.tensor(list(method.loss_weights.values())),
        group,
        names=tuple(method.loss_weights),
    )
    share_statistics(statistics_of(model), group)
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    buffers = {name: value.float().clone() for name, value in model.named_buffers()}
    return {"raw": found.raw, "moments": found.sums[MOMENTS], **grads, **buffers}


def norms(rows: slice) -> Result:
    """Return outputs, gradients and statistics of both norms for some rows of fixed inputs far from zero."""
    found: Result = {}
    for kind, shape in ((SyncedBatchNorm1d, (7, 4)), (SyncedBatchNorm2d, (7, 4, 3, 5))):
        rng = torch.Generator().manual_seed(5)
        x, wanted = torch.randn(shape, generator=rng) * 3 + 100, torch.randn(shape, generator=rng)
        norm = kind(4)
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([1.0, -2, 0.5, 3]))
        own = x[rows].clone().requires_grad_()
        for _ in range(3):  # the running mean, which the sums are taken about, moves
            said = norm(own)
        (said * wanted[rows]).sum().backward()
        values = {"out": said.detach(), "x": own.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
        found |= {f"{kind.__name__}.{name}": value for name, value in values.items() if value is not None}
        found |= {f"{kind.__name__}.{name}": value.clone().float() for name, value in norm.named_buffers()}
    return found


def _work(number: int, world: int, home: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{home}/meet", rank=number, world_size=world)
    group = Group(number, world)
    found = {name: step(name, group, sync=True) for name in METHODS}
    found["unsynced"] = step("joint", group, sync=False)
    found["norms"] = norms(slice(0, 3) if number == 0 else slice(3, 7))
    torch.save(found, f"{home}/rank{number}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Result]]:
    home = tmp_path_factory.mktemp("ranks")
    mp.spawn(_work, args=(2, str(home)), nprocs=2)
    return [torch.load(home / f"rank{number}.pt", weights_only=True) for number in range(2)]


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_have_the_gradient_of_one(ranks: list[dict[str, Result]], name: str):
    alone = step(name, Group(), sync=True)
    for rank in ranks:
        assert rank[name].keys() == alone.keys()
        for what, value in alone.items():
            # a bias before a batch norm changes nothing: its gradient is what rounding leaves of 0
            most = 2e-3 * float(value.abs().max()) + 1e-5
            assert float((rank[name][what] - value).abs().max()) < most, what


def test_without_synchronised_norms_they_do_not(ranks: list[dict[str, Result]]):
    alone = step("joint", Group(), sync=False)
    weight = "predictor.0.weight"
    assert torch.equal(ranks[0]["unsynced"][weight], ranks[1]["unsynced"][weight])  # the ranks still agree
    off = (ranks[0]["unsynced"][weight] - alone[weight]).abs().max() / alone[weight].abs().max()
    assert float(off) > 0.05


def test_a_synchronised_norm_is_the_norm_of_the_joined_batch(ranks: list[dict[str, Result]]):
    for kind, plain, shape in (
        ("SyncedBatchNorm1d", nn.BatchNorm1d, (7, 4)),
        ("SyncedBatchNorm2d", nn.BatchNorm2d, (7, 4, 3, 5)),
    ):
        rng = torch.Generator().manual_seed(5)
        x, wanted = torch.randn(shape, generator=rng) * 3 + 100, torch.randn(shape, generator=rng)
        norm = plain(4)
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([1.0, -2, 0.5, 3]))
        x.requires_grad_()
        for _ in range(3):
            said = norm(x)
        (said * wanted).sum().backward()
        own = [rank["norms"] for rank in ranks]
        joined = {name: torch.cat([each[f"{kind}.{name}"] for each in own]) for name in ("out", "x")}
        assert torch.allclose(joined["out"], said, atol=1e-3)
        assert torch.allclose(joined["x"], x.grad, atol=1e-3)
        for name, grad in (("weight", norm.weight.grad), ("bias", norm.bias.grad)):  # each rank has its part of it
            assert torch.allclose(sum(each[f"{kind}.{name}"] for each in own), grad, rtol=1e-3, atol=1e-3)
        for name, value in norm.named_buffers():
            for each in own:
                assert torch.allclose(each[f"{kind}.{name}"], value.float(), rtol=1e-4), name


def test_by_itself_a_synchronised_norm_is_the_plain_one_to_the_bit():
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    ours, theirs = SyncedBatchNorm1d(4), nn.BatchNorm1d(4)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)
