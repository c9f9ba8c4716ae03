"""Images that are listed anew in the middle of a run: on two workers, and after a change of their number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raydet.train.checkpoint import latest_checkpoint, open_checkpoint
from raydet.train.launch import launch
from tests.integration.runs import label_keys, saved
from tests.ranks import Ranks
from tests.training.balanced import run_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

RAY = {"cluster__backend": "ray", "method": {"views": {"short_side": [64, 64]}}}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run in one process, without Ray: twelve steps, rebuilds at 3, 6 and 9."""
    config = run_of(tmp_path_factory.mktemp("straight") / "run", method={"views": {"short_side": [64, 64]}})
    return launch(config).path


def test_two_workers_see_the_images_that_one_sees_and_count_the_same(straight: Path, tmp_path: Path, ranks: Ranks):
    with ranks.instead_of_ray():
        run = launch(run_of(tmp_path / "run", **RAY, cluster__workers=2)).path
    assert label_keys(run) == label_keys(straight)  # the images and teachers of every step
    mine, theirs = saved(run), saved(straight)
    assert mine["memory.first_steps"].tolist() == theirs["memory.first_steps"].tolist() == [8, 11]
    # Sums round differently on two ranks; a score may cross a threshold, so not all listings need be equal to the bit.
    torch.testing.assert_close(mine["memory.matrix"], theirs["memory.matrix"], rtol=0.05, atol=0.05)


def test_a_resume_on_another_number_of_workers_goes_on_with_the_listing_it_had(tmp_path: Path, ranks: Ranks):
    # Stopped at step 7, between the rebuild of step 6 and the beginning of its listing at step 8.
    folder = tmp_path / "run"
    with ranks.instead_of_ray():
        launch(run_of(folder, **RAY, cluster__workers=2, run__stop_at=7))
    before = latest_checkpoint(folder / "checkpoints").tensors("memory")
    assert before["first_steps"].tolist() == [5, 8]
    one = {**RAY, "cluster__backend": "process", "checkpoint__every": 1, "checkpoint__keep": 9}
    launch(run_of(folder, **one), resume=True)
    after = open_checkpoint(folder / "checkpoints" / "step_00000008").tensors("memory")
    assert torch.equal(after["repeats"], before["repeats"]) and after["first_steps"].tolist() == [5, 8]
    done = latest_checkpoint(folder / "checkpoints").tensors("memory")
    assert done["first_steps"].tolist() == [8, 11] and torch.equal(done["repeats"][0], before["repeats"][1])
