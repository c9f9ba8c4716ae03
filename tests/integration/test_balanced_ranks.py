"""Gradient-based sampling on several ranks, of which one is killed, and with labels of a pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.metrics import read_metrics
from raydet.train.launch import launch
from tests.integration.processes import steps_done
from tests.integration.runs import assert_same_bits, label_keys, losses, saved
from tests.ranks import Ranks
from tests.training.balanced import run_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

# Images are listed anew at 3, 6, ..., 27, each time from two steps later on: the checkpoint of step 4 lies between.
LONG = {"optim__steps": 30, "checkpoint__every": 4}
TWO = {**LONG, "cluster__backend": "ray", "cluster__workers": 2}
POOL = {**LONG, "cluster__backend": "ray", "labels__source": "pool", "pool__actors": 1, "pool__cpus_per_actor": 0.5}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> Path:
    """The undisturbed run on two ranks."""
    with ranks.instead_of_ray():
        return launch(run_of(tmp_path_factory.mktemp("straight") / "run", **TWO)).path


def test_a_killed_worker_loses_no_statistics_and_no_listing(straight: Path, tmp_path: Path, ranks: Ranks):
    run = tmp_path / "run"
    with ranks.instead_of_ray():
        with ranks.losing_one(lambda: steps_done(run) >= 5), pytest.raises(RuntimeError, match="rank 1 ended with -9"):
            launch(run_of(run, **TWO))
        launch(run_of(run, **TWO), resume=True)
    starts = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "start"]
    assert [line["attempt"] for line in starts] == [1, 2] and starts[1]["resumed_from"] in (4, 8)
    assert_same_bits(run, straight)
    assert [line["step"] for line in losses(run)] == list(range(1, 31))  # every step once
    assert saved(run)["memory.first_steps"].tolist() == [26, 29]


@pytest.mark.usefixtures("local_ray")
def test_labels_of_a_pool_and_of_one_process_list_the_same_images(tmp_path: Path):
    inline, pool = launch(run_of(tmp_path / "inline", **LONG)).path, launch(run_of(tmp_path / "pool", **POOL)).path
    assert_same_bits(inline, pool)
    assert label_keys(inline) == label_keys(pool)
    assert float(saved(pool)["memory.repeats"].max()) > 1
    assert losses(inline) == losses(pool)
