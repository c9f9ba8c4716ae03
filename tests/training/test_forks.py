"""Runs that start from the burn-in of another one, and those that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydet.errors import CheckpointError
from raydet.metrics import read_metrics
from raydet.sweep.burn_in import shared_burn_in
from raydet.train.checkpoint import open_checkpoint
from raydet.train.launch import launch
from raydet.train.worker import check_start_of_fork
from tests.helpers import tiny_config, tiny_soft
from tests.training.test_shared_burn_in import files


@pytest.fixture(scope="module")
def burned_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a burn-in of two steps."""
    folder, method = tmp_path_factory.mktemp("burned_in"), {"name": "unbiased_teacher", "burn_in_steps": 2}
    return launch(tiny_config(folder / "run", method=method, run__stop_at=2)).checkpoints / "step_00000002"


EQLV2 = {"name": "eqlv2", "pseudo_score_floor": 1e-4, "cls_pseudo_threshold": 1e-4, "rpn_pseudo_threshold": 1e-4}


def test_what_a_method_learns_in_its_burn_in_goes_over_to_the_fork(tmp_path: Path):
    method = {**EQLV2, "burn_in_steps": 2}
    settings = {"method": method, "labels__score_floor": 1e-5, "optim__steps": 4}
    alone = launch(tiny_soft(tmp_path / "alone", **settings))
    checkpoint = shared_burn_in(alone.load_config(), alone.load_config(), tmp_path / "shared")
    assert open_checkpoint(checkpoint).has("memory")
    launch(tiny_soft(tmp_path / "forked", **settings, run__fork_from=str(checkpoint)))
    mine, theirs = files(tmp_path / "alone", 4), files(tmp_path / "forked", 4)
    assert mine == theirs and "memory.safetensors" in mine


def test_a_fork_that_is_refused_leaves_no_run_behind(tmp_path: Path):
    method = {"name": "unbiased_teacher", "burn_in_steps": 3}
    burn_in = launch(tiny_config(tmp_path / "burn_in", method=method, run__stop_at=3)).checkpoints / "step_00000003"
    with pytest.raises(CheckpointError, match="weights"):  # il_net wants a branch that it does not have
        launch(tiny_config(tmp_path / "run", run__fork_from=str(burn_in)))
    assert not (tmp_path / "run" / "config.json").exists()
    mended = tiny_config(tmp_path / "run", method__iou_branch_enabled=False, run__fork_from=str(burn_in))
    start = read_metrics(launch(mended).metrics)[0]
    assert (start["kind"], start["step"]) == ("start", 3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"run__fork_from": "gone"}, "run.fork_from: .*gone: no such checkpoint folder"),
        ({"method__burn_in_steps": 1}, "is at step 2, method.burn_in_steps is 1"),
        ({"optim__name": "sgd"}, "was trained with AdamW, optim.name is sgd; use the same"),
    ],
)
def test_a_checkpoint_that_no_data_could_make_fit_is_refused_before_the_model_is_built(
    burned_in: Path, tmp_path: Path, settings: dict[str, object], said: str
):
    asked = {"method": {"name": "unbiased_teacher", "burn_in_steps": 2}, "run__fork_from": str(burned_in), **settings}
    with pytest.raises(CheckpointError, match=said):
        check_start_of_fork(tiny_config(tmp_path / "run", **asked))
