"""LCHP on two ranks: they see the views and make the boxes of one, in both stages; a worker of Ray goes on for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.families.localization.config import LocalizationConfig
from raydet.metrics import read_metrics
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.launch import launch
from tests.helpers import tiny_places
from tests.integration.runs import losses
from tests.ranks import Ranks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

TWO = {"cluster__backend": "ray", "cluster__workers": 2}
FIGURES = ("pseudo/box_area", "pseudo/whole_image", "gate/kept", "gate/confidence", "gate/left_view")


def config(run_dir: Path, **changes: object) -> LocalizationConfig:
    """Boxes of an untrained network are nearly all alike: the gate keeps some and drops some."""
    return tiny_places(run_dir, method__crop_confidence_threshold=0.9, method__stability_every=0, **changes)


def said(run: Path) -> list[dict[str, float | None]]:
    """Return what each step logged of pseudo-boxes, gate and strong views."""
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]
    return [{name: line.get(name) for name in FIGURES} for line in lines]


def assert_same_steps(run: Path, other: Path) -> None:
    """Losses are those of the same views and boxes; sums round differently on two workers."""
    assert len(losses(run)) == len(losses(other)) == 8
    for mine, theirs in zip(losses(run), losses(other), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-6)
    for own, others in zip(said(run), said(other), strict=True):
        assert own == pytest.approx(others, abs=1e-4)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, without Ray: four steps of each stage."""
    return launch(config(tmp_path_factory.mktemp("straight") / "run")).path


def test_two_workers_see_the_views_and_make_the_boxes_of_one(straight: Path, tmp_path: Path, ranks: Ranks):
    with ranks.instead_of_ray():
        run = launch(config(tmp_path / "run", **TWO)).path
    assert_same_steps(run, straight)
    kept = [line["gate/kept"] for line in said(straight)]
    assert kept[:4] == [None] * 4 and any(kept[4:])  # boxes pass the gate, so strong views are compared


@pytest.mark.usefixtures("local_ray")
def test_a_run_that_two_workers_began_is_ended_by_one_on_ray(straight: Path, tmp_path: Path, ranks: Ranks):
    folder = tmp_path / "run"
    with ranks.instead_of_ray():
        launch(config(folder, **TWO, run__stop_at=6))  # in the middle of the second stage
    checkpoint = latest_checkpoint(folder / "checkpoints")
    assert checkpoint is not None and checkpoint.step == 6
    launch(config(folder, cluster__backend="ray"), resume=True)
    assert_same_steps(folder, straight)
