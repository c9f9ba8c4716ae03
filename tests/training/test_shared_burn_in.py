"""A trial forked from a shared burn-in equals the trial run alone, and a burn-in is trained once."""

from __future__ import annotations

from pathlib import Path

from raydet.config.run import RunConfig
from raydet.sweep.burn_in import burn_in_config, is_whole, shared_burn_in
from raydet.train.checkpoint import open_checkpoint
from raydet.train.launch import launch
from tests.helpers import tiny_config


def test_a_trial_forked_from_the_shared_burn_in_equals_the_trial_run_alone(tmp_path: Path):
    # Every unseen setting at once, another batch ratio too: an image drawn elsewhere would change the weights.
    changes = {"method__unsup_reg_weight": 2.0, "method__ema_keep_rate": 0.7, "optim__unlabeled_batch": 3}
    alone = tiny_config(tmp_path / "alone", **changes)
    launch(alone)
    checkpoint = shared_burn_in(alone, tiny_config(tmp_path / "base"), tmp_path / "shared")
    launch(tiny_config(tmp_path / "forked", **changes, run__fork_from=str(checkpoint)))
    assert files(tmp_path / "alone", 8) == files(tmp_path / "forked", 8)


def test_a_whole_burn_in_is_not_trained_again(tmp_path: Path):
    config = tiny_config(tmp_path / "trial")
    checkpoint = shared_burn_in(config, config, tmp_path / "shared")
    before = (checkpoint / "COMMIT").stat().st_mtime_ns
    assert shared_burn_in(config, config, tmp_path / "shared") == checkpoint
    assert (checkpoint / "COMMIT").stat().st_mtime_ns == before


def test_a_burn_in_that_was_cut_off_is_finished(tmp_path: Path):
    config: RunConfig = tiny_config(tmp_path / "trial", checkpoint__every=1)
    partial = burn_in_config(config, config, tmp_path / "shared")
    launch(partial.model_copy(update={"run": partial.run.model_copy(update={"stop_at": 2})}))
    checkpoint = shared_burn_in(config, config, tmp_path / "shared")
    assert is_whole(checkpoint) and open_checkpoint(checkpoint).step == 3


def files(run: Path, step: int) -> dict[str, str]:
    """Return the checksums of a checkpoint's weights and optimiser state."""
    import json

    commit = json.loads((run / "checkpoints" / f"step_{step:08d}" / "COMMIT").read_text())
    return {name: entry["sha256"] for name, entry in commit["files"].items() if name.endswith(".safetensors")}
