"""Going back to an older checkpoint, where that is refused: nothing has moved, and the run can go on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raydet.errors import CheckpointError, ConfigError
from raydet.metrics import read_metrics
from raydet.train.checkpoint import steps_of
from raydet.train.launch import launch
from tests.helpers import tiny_config


def test_going_back_to_the_beginning_of_a_fork_that_is_gone_moves_nothing(tmp_path: Path):
    method = {"name": "unbiased_teacher", "burn_in_steps": 3}
    burn_in = launch(tiny_config(tmp_path / "burn_in", method=method, run__stop_at=3))
    fork = tiny_config(
        tmp_path / "run",
        method=method,
        run__fork_from=str(burn_in.checkpoints / "step_00000003"),
        checkpoint__every=2,
        optim__steps=6,
    )
    run = launch(fork)
    there, told = steps_of(run.checkpoints), run.metrics.read_text()
    shutil.move(burn_in.path, tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"run.fork_from: .*no such checkpoint folder"):
        launch(fork, resume=True, start=0)
    assert (steps_of(run.checkpoints), run.metrics.read_text()) == (there, told)
    assert there == [5, 6] and list(run.abandoned.iterdir()) == []
    longer = fork.model_copy(update={"optim": fork.optim.model_copy(update={"steps": 7})})
    assert steps_of(launch(longer, resume=True).checkpoints)[-1] == 7


def test_going_back_beyond_the_labels_that_were_kept_is_refused(tmp_path: Path):
    kept = {"labels__lookahead": 2, "labels__keep_versions": 1, "checkpoint__every": 1, "checkpoint__keep": 20}
    run = launch(tiny_config(tmp_path / "run", **kept, optim__steps=12))
    there = steps_of(run.checkpoints)
    # Step 5 is trained with the labels of teacher max(3, 5 - 2); a checkpoint at 5 holds teacher 5 alone.
    with pytest.raises(ConfigError, match=r"--from 5: the labels of teacher 3, which step 5 needs, were deleted"):
        launch(tiny_config(run.path, **kept, optim__steps=12), resume=True, start=5)
    assert steps_of(run.checkpoints) == there
    launch(tiny_config(run.path, **kept, optim__steps=12), resume=True, start=11)  # of the last two checkpoints
    launch(tiny_config(run.path, **kept, optim__steps=12), resume=True, start=2)  # of the burn-in
    assert read_metrics(run.metrics)[-1]["reason"] == "done"
