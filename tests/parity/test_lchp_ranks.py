"""LCHP by one rank and by two, in real processes: both stages, the classifier frozen and DDP wrapped anew between."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raydet.families.localization.config import LocalizationConfig
from raydet.families.localization.data import LOCATED
from raydet.group import Group
from raydet.metrics import read_metrics
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder
from raydet.train.worker import local_source, train_rank
from tests.helpers import tiny_places
from tests.integration.runs import losses, saved


def config(run_dir: Path) -> LocalizationConfig:
    """Boxes of an untrained network are nearly all alike: the gate keeps some and drops some."""
    return tiny_places(run_dir, method__crop_confidence_threshold=0.9, method__stability_every=0)


def _work(number: int, world: int, run_dir: str, meet: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=number, world_size=world)
    train_rank(config(Path(run_dir)), Group(number, world), local_source)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    home = tmp_path_factory.mktemp("ranks")
    one = launch(config(home / "one")).path
    two = home / "two"
    own = config(two)
    LOCATED.prepare(own.data, RunFolder(str(two)).data)
    RunFolder(str(two)).prepare(own, resume=False)
    mp.spawn(_work, args=(2, str(two), str(home / "meet")), nprocs=2)
    return one, two


def test_two_ranks_have_the_losses_of_one_in_both_stages(runs: tuple[Path, Path]):
    one, two = (losses(run) for run in runs)
    assert len(one) == len(two) == 8
    for mine, theirs in zip(one, two, strict=True):
        assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-6)
    assert any(line["loss/refine/reg/raw"] > 0 for line in one)


def test_two_ranks_make_the_boxes_and_gates_of_one(runs: tuple[Path, Path]):
    names = ("pseudo/box_area", "pseudo/whole_image", "gate/kept", "gate/confidence", "gate/left_view")
    one, two = (
        [[line.get(name) for name in names] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]
        for run in runs
    )
    for mine, theirs in zip(one, two, strict=True):
        assert [value is None for value in mine] == [value is None for value in theirs]
        assert [v for v in theirs if v is not None] == pytest.approx([v for v in mine if v is not None], abs=1e-4)


def test_two_ranks_end_with_the_weights_of_one(runs: tuple[Path, Path]):
    one, two = (saved(run) for run in runs)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=1e-2, atol=1e-4), name
