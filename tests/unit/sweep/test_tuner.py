"""What the search's own process does when trials end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from raydet.sweep.definition import read_definition
from raydet.sweep.folder import SweepFolder
from raydet.sweep.space import Asha
from raydet.sweep.tuner import AskingAsha, Keeper
from tests.sweeps import BETA, add_trial, write_search


@pytest.fixture
def home(tmp_path: Path) -> SweepFolder:
    return write_search(tmp_path / "search")


def add(home: SweepFolder, trial_id: str, ap: float, state: str = "done") -> None:
    add_trial(home, trial_id, {BETA: 1.0}, {40: ap}, state=state)
    (home.run_dir(trial_id) / "checkpoints").mkdir()


def kept(home: SweepFolder) -> list[str]:
    return sorted(folder.parent.name for folder in home.trials.glob("*/checkpoints"))


def tune_trial(trial_id: str, tune_id: str = "t") -> SimpleNamespace:
    error = SimpleNamespace(__str__=lambda: "")
    return SimpleNamespace(
        config={"trial": trial_id} if trial_id else {},
        trial_id=tune_id,
        get_pickled_error=lambda: None,
        get_error=lambda: "many lines\nthe actor died",
        error=error,
    )


def test_only_the_best_finished_trial_keeps_its_checkpoints_and_a_failed_one_may_be_tried_again(home: SweepFolder):
    for trial_id, ap, state in (("0000", 0.2, "done"), ("0001", 0.3, "done"), ("0002", 0.9, "stopped")):
        add(home, trial_id, ap, state)
    add(home, "0003", 0.1, "failed")
    add(home, "0004", 0.9, "running")
    keeper = Keeper(home, read_definition(home.path))
    assert kept(home) == ["0001", "0003", "0004"]
    home.save(home.trial("0004"), state="done")
    keeper.on_trial_complete(0, [], tune_trial("0004"))
    assert kept(home) == ["0003", "0004"]  # 0.9 is better than 0.3


def test_the_best_trial_keeps_its_checkpoints_when_a_resumed_search_hands_it_to_the_scheduler_again(home: SweepFolder):
    add(home, "0000", 0.3)
    keeper = Keeper(home, read_definition(home.path))
    keeper.on_trial_complete(0, [], tune_trial("0000"))
    assert kept(home) == ["0000"]


def test_the_best_trial_keeps_its_checkpoints_when_its_values_are_suggested_again(home: SweepFolder):
    add(home, "0000", 0.3)
    keeper = Keeper(home, read_definition(home.path))
    home.save(home.trial("0000"), tune_id="second")
    keeper.on_trial_complete(0, [], tune_trial("", "second"))
    assert kept(home) == ["0000"]


def test_of_equal_trials_the_one_that_was_kept_stays_when_a_search_is_resumed(home: SweepFolder):
    add(home, "0001", 0.3)
    keeper = Keeper(home, read_definition(home.path))
    add(home, "0000", 0.3)  # ends later
    keeper.on_trial_complete(0, [], tune_trial("0000"))
    assert kept(home) == ["0001"]
    resumed = Keeper(home, read_definition(home.path))
    for trial_id in ("0000", "0001"):
        resumed.on_trial_complete(0, [], tune_trial(trial_id))
    assert kept(home) == ["0001"]


def test_a_better_trial_without_its_model_takes_nobody_elses(home: SweepFolder):
    add(home, "0000", 0.4)
    home.prune(home.trial("0000"))
    add(home, "0001", 0.3)
    keeper = Keeper(home, read_definition(home.path))
    keeper.on_trial_complete(0, [], tune_trial("0000"))
    assert kept(home) == ["0001"]


def test_a_trial_whose_process_died_is_failed_even_before_its_first_figure(home: SweepFolder):
    add_trial(home, "0000", {BETA: 1.0}, state="running")
    home.save(home.trial("0000"), tune_id="abc_1")
    Keeper(home, read_definition(home.path)).on_trial_error(0, [], tune_trial("", "abc_1"))
    assert (home.trial("0000").state, home.trial("0000").message) == ("failed", "its process ended: the actor died")


def test_a_training_that_ended_without_a_word_is_failed(home: SweepFolder):
    add_trial(home, "0000", {BETA: 1.0}, state="running")
    Keeper(home, read_definition(home.path)).on_trial_complete(0, [], tune_trial("0000"))
    assert home.trial("0000").state == "failed"


def test_asha_asks_the_weak_and_kills_nobody(home: SweepFolder):
    from ray.tune.experiment import Trial

    scheduler = AskingAsha(home, Asha(grace_steps=5, reduction=2), max_steps=60)
    scheduler.set_search_properties("AP", "max")
    add_trial(home, "0000", {BETA: 0.5}, state="running")
    add_trial(home, "0001", {BETA: 1.0}, state="running")
    for trial_id, ap in (("0000", 0.9), ("0001", 0.1)):
        trial = Trial("unused", stub=True)
        scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, trial, {"trial": trial_id, "step": 5, "AP": ap}) == "CONTINUE"
    assert not home.is_asked_to_stop("0000") and home.is_asked_to_stop("0001")
