"""Several nodes on one machine: nodes are lost and join in mid-run, and the result is that of an undisturbed run."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raydet.metrics import read_metrics
from raydet.train.launch import launch
from tests.helpers import tiny_config
from tests.integration import cluster_script
from tests.integration.cluster_script import TRAINING
from tests.integration.runs import assert_same_bits, label_keys, losses
from tests.ranks import Ranks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run in one process, without Ray."""
    return launch(tiny_config(tmp_path_factory.mktemp("straight") / "run", **TRAINING)).path


@pytest.fixture(scope="module")
def straight_on_two(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> Path:
    """The undisturbed run on two ranks, inline, without Ray."""
    two = {"cluster__backend": "ray", "cluster__workers": 2}
    with ranks.instead_of_ray():
        return launch(tiny_config(tmp_path_factory.mktemp("two") / "run", **TRAINING, **two)).path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both disturbed runs: there may be only one Ray in a process, so the cluster has one of its own."""
    folder = tmp_path_factory.mktemp("nodes")
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, cluster_script.__file__, str(folder)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def verdict(runs: Path, run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((runs / "verdict.json").read_text())[run]
    return found


def lines(run: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == kind]


def test_a_lost_teacher_node_and_a_lost_trainer_node_change_nothing(runs: Path, straight_on_two: Path):
    found, run = verdict(runs, "fixed"), runs / "fixed"
    assert found == {"starts": [2, 2], "broker_on_head": True, "lost_node_had_a_teacher": True}
    assert max(line.get("source/labels/relabelled", 0) for line in lines(run, "step")) > 0  # it was at work
    assert label_keys(run) == label_keys(straight_on_two)
    assert losses(run) == losses(straight_on_two)
    assert_same_bits(run, straight_on_two)


def test_an_elastic_group_takes_a_node_that_joins_and_survives_the_loss_of_one(runs: Path, straight: Path):
    run = runs / "elastic"
    assert verdict(runs, "elastic")["starts"] == [2, 3, 2]
    assert label_keys(run) == label_keys(straight)  # the same images by the same teacher versions
    # The same samples and views. Sums over other numbers of ranks round differently, so the last digits may differ.
    for line, other in zip(losses(run), losses(straight), strict=True):
        assert line == pytest.approx(other, rel=2e-3, abs=1e-5), line["step"]
    teacher = lines(run, "eval")[-1]
    assert teacher["step"] == 16
    assert math.isfinite(teacher["AP"])
