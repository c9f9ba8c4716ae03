"""Gradient-based sampling on Ray: a worker that is killed for real, and labels of a pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.metrics import read_metrics
from raydet.train.launch import launch
from tests.integration.processes import Killer, steps_done
from tests.integration.runs import assert_same_bits, losses, saved
from tests.ranks import Ranks
from tests.training.balanced import run_of

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(240)]

# Images are listed anew at 3, 6, ..., 27, each time from two steps later on: the checkpoint of step 4 lies between.
LONG = {"optim__steps": 30, "checkpoint__every": 4}
POOL = {**LONG, "cluster__backend": "ray", "labels__source": "pool", "pool__actors": 1, "pool__cpus_per_actor": 0.5}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> Path:
    """The undisturbed run on two ranks, without Ray, each with its own teacher."""
    two = {**LONG, "cluster__backend": "ray", "cluster__workers": 2}
    with ranks.instead_of_ray():
        return launch(run_of(tmp_path_factory.mktemp("straight") / "run", **two)).path


def test_a_killed_worker_loses_no_statistics_and_no_listing(straight: Path, tmp_path: Path):
    run = tmp_path / "run"
    with Killer("ray::RayTrainWorker", lambda: steps_done(run) >= 5) as killer:
        launch(run_of(run, **POOL, cluster__workers=2))
    assert killer.killed
    starts = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "start"]
    assert [line["attempt"] for line in starts] == [1, 2] and starts[1]["resumed_from"] in (4, 8)
    assert_same_bits(run, straight)
    assert [line["step"] for line in losses(run)] == list(range(1, 31))  # every step once
    assert saved(run)["memory.first_steps"].tolist() == [26, 29]


def test_labels_of_a_pool_and_of_one_process_list_the_same_images(tmp_path: Path):
    inline, pool = launch(run_of(tmp_path / "inline", **LONG)).path, launch(run_of(tmp_path / "pool", **POOL)).path
    assert_same_bits(inline, pool)
    assert float(saved(pool)["memory.repeats"].max()) > 1
    assert losses(inline) == losses(pool)
