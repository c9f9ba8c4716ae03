"""When a run counts as diverged, what is said then, and from where it can go on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydet.commands.train import _start
from raydet.errors import CheckpointError, ConfigError, DivergedError, RunError
from raydet.metrics import read_metrics
from raydet.train.checkpoint import folder_of, latest_checkpoint, open_checkpoint, steps_of
from raydet.train.going_back import diverged_since, healthy_step
from raydet.train.health import PATIENCE, WINDOW, Health
from raydet.train.launch import launch
from raydet.train.rundir import RunFolder
from raydet.train.saved import load_saved
from tests.helpers import tiny_config


def told(losses: list[float], ratio: float | None = 10.0) -> Health:
    health = Health(ratio)
    for step, loss in enumerate(losses):
        health.observe(step, loss)
    return health


def test_a_loss_ten_times_its_running_median_is_noticed_at_once():
    health = Health(10.0)
    # the median of 2, 3, 4 is 3, so the bound is 30; of 2, 3, 4, 30 it is 3.5, and 36 is above 35
    assert [health.observe(step, loss) for step, loss in enumerate([2.0, 3.0, 4.0, 30.0, 36.0, 1e11])] == (
        [False, False, False, False, True, False]  # an alarm once, not at every step
    )
    # 30 was below the bound, but above 3 * sqrt(10) = 9.5: the weights that gave it are not to be gone on from
    assert health.since == 3
    assert not health.is_healthy
    assert health.median == 3.5  # of 2, 3, 4, 30: what is above the bound does not count


def test_a_loss_that_comes_back_is_healthy_again():
    health = told([2.0, 3.0, 4.0, 500.0, 5.0])
    assert health.is_healthy
    assert health.since is None


def test_small_losses_may_multiply():
    assert told([0.001, 0.001, 0.001, 9.9]).is_healthy  # the median counts as 1 at least
    assert not told([0.001, 0.001, 0.001, 10.1]).is_healthy


def test_a_stage_with_other_terms_has_a_median_of_its_own():
    health = told([1.0, 1.0, 1.0])
    health.begin_stage()
    assert not health.observe(3, 9.0)  # below 10 * 1, and from here on the median is 9
    assert not health.observe(4, 80.0)
    assert health.rising_since == 4
    assert health.observe(5, 500.0)  # above 10 * (9 + 80) / 2
    assert health.since == 4


def test_without_a_ratio_nothing_is_a_divergence():
    assert told([1.0, 1e30], ratio=None).is_healthy


def test_a_run_is_hopeless_after_a_while_above_the_bound():
    rise = [9.0] * 30  # above 1 * sqrt(10), and below the bound of 10 * 1: no part of the patience
    health = told([*[1.0] * 40, *rise, *[100.0] * (PATIENCE - 1)])
    assert health.since == 40 and not health.is_hopeless
    health.observe(69 + PATIENCE, 100.0)
    assert health.is_hopeless


@given(
    st.lists(st.floats(min_value=0, max_value=1e30), max_size=2 * WINDOW),
    st.lists(st.floats(min_value=0, max_value=1e30), max_size=WINDOW),
)
def test_a_saved_state_judges_as_the_one_that_was_saved(before: list[float], after: list[float]):
    straight = told(before)
    resumed = Health(10.0)
    resumed.load(json.loads(json.dumps(straight.record())))
    for step, loss in enumerate(after, len(before)):
        assert straight.observe(step, loss) == resumed.observe(step, loss)
    assert straight == resumed
    assert len(straight.recent) <= WINDOW
    assert math.isfinite(straight.bound) == bool(straight.recent)


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was fine until step 5, then went on with an absurd rate and diverged."""
    run = tmp_path_factory.mktemp("diverged") / "run"
    launch(tiny_config(run, optim__name="sgd", optim__steps=40, run__stop_at=5))
    absurd = {"optim__lr": 10.0, "optim__clip_norm": 1.0, "checkpoint__every": 1, "checkpoint__keep": 1}
    with pytest.raises(DivergedError):  # clipped, it would train on
        launch(tiny_config(run, optim__name="sgd", optim__steps=40, **absurd), resume=True)
    return run


def test_an_alarm_names_step_loss_and_rate(diverged: Path):
    alarms = [record for record in read_metrics(diverged / "metrics.jsonl") if record.get("name") == "diverged"]
    assert alarms[0]["step"] >= alarms[0]["since"] >= 5
    assert "times its running median" in alarms[0]["message"]
    assert "at a learning rate of 10:" in alarms[0]["message"]
    assert "--resume --from 5 (the newest healthy checkpoint)" in alarms[0]["message"]


def test_what_was_written_above_the_bound_is_unhealthy_and_never_all_there_is(diverged: Path):
    checkpoints = diverged / "checkpoints"
    newest = latest_checkpoint(checkpoints)
    assert not newest.is_healthy
    assert newest.state["best"].get("step", 0) <= 5
    assert steps_of(checkpoints)[-1] not in steps_of(checkpoints, healthy=True)
    assert healthy_step(RunFolder(diverged)) == 5  # though only one was to be kept
    assert open_checkpoint(folder_of(checkpoints, 5)).is_healthy


def test_a_diverged_run_is_not_resumed_by_accident(diverged: Path):
    with pytest.raises(ConfigError, match=r"after the run had diverged.*--resume --from healthy \(step 5\)"):
        launch(tiny_config(diverged, optim__name="sgd", optim__steps=40), resume=True)


def test_a_model_is_taken_from_before_the_divergence(diverged: Path, capsys: pytest.CaptureFixture[str]):
    assert load_saved(diverged).checkpoint.step == 5
    assert "was written after the run had diverged; the one of step 5 is used" in capsys.readouterr().err


def test_no_run_is_forked_from_what_has_diverged(diverged: Path, tmp_path: Path):
    newest = latest_checkpoint(diverged / "checkpoints")
    late = {"method__burn_in_steps": 50, "optim__steps": 60}
    with pytest.raises(CheckpointError, match="was written after its run had diverged: fork from an older one"):
        launch(tiny_config(tmp_path / "fork", optim__name="sgd", **late, run__fork_from=str(newest.path)))


def test_the_mark_of_a_checkpoint_says_nothing_where_the_run_failed_with_an_alarm_about_its_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = launch(tiny_config(tmp_path / "run", checkpoint__every=1, checkpoint__keep=5))
    newest, lines = latest_checkpoint(folder.checkpoints), folder.metrics.read_text()
    assert newest.step == 8 and newest.is_healthy and diverged_since(folder, newest) is None

    def ends(reason: str, since: int, error: str = "DivergedError") -> None:
        alarm = {"kind": "alarm", "name": "diverged", "since": since, "step": 9, "message": "!", "time": 0.0}
        end = {"kind": "end", "step": 9, "reason": reason, "message": f"{error}: !", "time": 0.0}
        folder.metrics.write_text(lines + json.dumps(alarm) + "\n" + json.dumps(end) + "\n")

    for since in (9, 8):  # the weights of step 8 were fine, or are the first to be tried again
        ends("failed", since)
        assert diverged_since(folder, newest) is None
    ends("stopped", 7)  # it had recovered, or would have
    assert diverged_since(folder, newest) is None
    ends("failed", 7, "StorageError")  # it had recovered, and failed of something else
    assert diverged_since(folder, newest) is None
    ends("failed", 7)
    assert diverged_since(folder, newest) == 7
    with pytest.raises(ConfigError, match=r"\(above its bound since step 7\).*--resume --from healthy \(step 6\)"):
        launch(tiny_config(folder.path, checkpoint__every=1, optim__steps=20), resume=True)
    assert load_saved(folder.path).checkpoint.step == 6
    assert "the one of step 6 is used" in capsys.readouterr().err


def test_a_step_without_a_checkpoint_is_refused_with_those_there_are(diverged: Path):
    with pytest.raises(ConfigError, match=r"--from 4: .*there are checkpoints of steps: 3, 5.*\(unhealthy\); 0 is"):
        launch(tiny_config(diverged, optim__name="sgd", optim__steps=40), resume=True, start=4)


def test_going_back_equals_a_run_that_never_diverged(diverged: Path, tmp_path: Path):
    straight = launch(tiny_config(tmp_path / "straight", optim__name="sgd", optim__steps=12)).path
    back = launch(tiny_config(diverged, optim__name="sgd", optim__steps=12), resume=True, start="healthy").path
    one, other = (latest_checkpoint(run / "checkpoints") for run in (straight, back))
    assert one.step == other.step == 12
    assert one.state["health"] == other.state["health"]
    for part in ("student", "teacher", "optimizer"):
        mine, theirs = one.tensors(part), other.tensors(part)
        assert all((mine[name] == theirs[name]).all() for name in mine)
    assert steps_of(back / "abandoned")
    assert not any(record.get("name") == "diverged" for record in read_metrics(back / "metrics.jsonl"))


def test_a_run_that_has_diverged_from_the_start_begins_anew(tmp_path: Path):
    run = tmp_path / "run"
    with pytest.raises(RunError, match=r"--resume --from 0 \(the beginning"):
        launch(tiny_config(run, optim__name="sgd", optim__lr=50.0, checkpoint__every=1))
    launch(tiny_config(run, optim__name="sgd", optim__lr=1e-3, checkpoint__every=1), resume=True, start="healthy")
    assert latest_checkpoint(run / "checkpoints").step == 8


def test_a_run_does_not_end_well_with_a_loss_above_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = Health.observe
    monkeypatch.setattr(Health, "observe", lambda self, step, loss: real(self, step, loss if step < 6 else 1e11))
    with pytest.raises(DivergedError, match=r"the loss is 1e\+11, .*too high since step 6: go on with --resume --from"):
        launch(tiny_config(tmp_path / "run"))
    end = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert (end["kind"], end["reason"]) == ("end", "failed")
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").step == 8


def test_from_names_a_step_or_healthy():
    assert (_start("12"), _start("healthy")) == (12, "healthy")
