"""Runs with LARS: on with the same bits, and no other optimiser takes over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raydet.errors import CheckpointError
from raydet.train.checkpoint import latest_checkpoint
from raydet.train.launch import launch
from tests.helpers import tiny_config

SETTINGS = {"optim__name": "lars", "optim__lr": 0.5, "optim__clip_norm": 1.0, "optim__schedule": "cosine"}


def test_a_run_split_by_a_resume_equals_the_straight_one(tmp_path: Path):
    straight = launch(tiny_config(tmp_path / "straight", **SETTINGS)).path
    run = launch(tiny_config(tmp_path / "run", **SETTINGS, run__stop_at=5)).path
    launch(tiny_config(run, **SETTINGS), resume=True)
    one, other = (latest_checkpoint(folder / "checkpoints") for folder in (straight, run))
    assert one.step == other.step == 8 and one.state["optimizer"] == "Lars"
    for kind in ("student", "teacher", "optimizer"):
        first, second = one.tensors(kind), other.tensors(kind)
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert all(name.startswith("momentum_buffer/") for name in one.tensors("optimizer"))


def test_its_momentum_is_not_taken_over_by_another_optimiser(tmp_path: Path):
    burn_in = launch(tiny_config(tmp_path / "run", **SETTINGS, run__stop_at=3)).path / "checkpoints" / "step_00000003"
    with pytest.raises(CheckpointError, match="was trained with Lars, optim.name is adamw; use the same"):
        launch(tiny_config(tmp_path / "fork", run__fork_from=str(burn_in)))
