"""Optuna as the one who chooses points: what it suggests, what it is told, and which trial a suggestion becomes."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray import tune

from raydet.sweep.definition import read_definition
from raydet.sweep.folder import SweepFolder, Trial
from raydet.sweep.space import Sweep
from raydet.sweep.trial import claim
from raydet.sweep.tuner import optuna_searcher
from tests.sweeps import add_trial, write_search

pytest.importorskip("optuna")
KEYS = ("method.score_threshold", "method.unsup_cls_weight")
SWEEP = Sweep(
    "?",
    {KEYS[0]: tune.quniform(0.5, 0.9, 0.05), KEYS[1]: tune.choice([1.0, 2.0])},
    search="optuna",
    settings={"method.unsup_reg_weight": 0.5},
)


@pytest.fixture
def home(tmp_path: Path) -> SweepFolder:
    return write_search(tmp_path / "search", keys=KEYS)


def test_suggestions_have_the_dotted_keys_and_lie_in_the_space(home: SweepFolder):
    searcher = optuna_searcher(SWEEP, home, 0, [])
    for number in range(5):
        suggestion = searcher.suggest(str(number))
        assert set(suggestion) == set(KEYS)
        assert 0.5 <= suggestion[KEYS[0]] <= 0.9 and suggestion[KEYS[1]] in (1.0, 2.0)


def test_a_resumed_search_suggests_what_was_cut_off_first_and_knows_what_was_found(home: SweepFolder):
    add_trial(home, "0000", {KEYS[0]: 0.6, KEYS[1]: 1.0}, {20: 0.1, 40: 0.3}, burn_in=None)
    cut_off = Trial("0001", 1, 0, {KEYS[0]: 0.7, KEYS[1]: 2.0}, {KEYS[0]: 0.7, KEYS[1]: 2.0})
    searcher = optuna_searcher(SWEEP, home, 0, [home.save(cut_off)])
    assert searcher.suggest("first") == {KEYS[0]: 0.7, KEYS[1]: 2.0}
    known = [(trial.params, trial.value) for trial in searcher._ot_study.get_trials(states=None) if trial.value]
    assert known == [({KEYS[0]: 0.6, KEYS[1]: 1.0}, 0.3)]


def test_a_suggestion_becomes_the_trial_that_was_cut_off_with_it_or_a_new_one(home: SweepFolder):
    values = {KEYS[0]: 0.7, KEYS[1]: 2.0}
    home.save(Trial("0000", 0, 0, values, values))
    definition = read_definition(home.path)
    assert claim(home, definition, dict(values)).id == "0000"
    new = claim(home, definition, {KEYS[0]: 0.65, KEYS[1]: 1.0})
    assert new.burn_in is not None  # shared with every other suggestion
    assert new.id == "0001" and new.values == {KEYS[0]: 0.65, KEYS[1]: 1.0}
    assert claim(home, definition, {KEYS[0]: 0.65, KEYS[1]: 1.0}).id == "0002"  # 0001 is at work
