"""Optuna as the one who chooses points: what it suggests, what it is told, and which trial a suggestion becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray import tune

from raydet.cli import main
from raydet.registry import family_of
from raydet.settings import dump
from raydet.sweep.definition import parse_definition, read_definition
from raydet.sweep.folder import SweepFolder, Trial, header_of
from raydet.sweep.plan import disk_of
from raydet.sweep.run import MB, describe
from raydet.sweep.space import Sweep
from raydet.sweep.trial import claim
from raydet.sweep.tuner import optuna_searcher
from tests.helpers import tiny_config
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
    assert claim(home, definition, dict(values), "a").id == "0000"
    new = claim(home, definition, {KEYS[0]: 0.65, KEYS[1]: 1.0}, "b")
    assert new.burn_in is not None  # shared with every other suggestion
    assert new.id == "0001" and new.values == {KEYS[0]: 0.65, KEYS[1]: 1.0}
    assert claim(home, definition, {KEYS[0]: 0.65, KEYS[1]: 1.0}, "c").id == "0002"  # 0001 is at work


def test_a_suggestion_whose_process_died_goes_on_as_the_trial_that_it_was(home: SweepFolder):
    definition, values = read_definition(home.path), {KEYS[0]: 0.65, KEYS[1]: 1.0}
    others = claim(home, definition, dict(values), "a")  # the same values, at work elsewhere
    first = claim(home, definition, dict(values), "b")
    home.save(first, state="running", attempts=1)
    again = claim(home, definition, dict(values), "b")
    assert (others.id, again.id, again.attempts) == ("0000", "0001", 1)
    assert [trial.id for trial in home.all_trials()] == ["0000", "0001"]


def test_a_suggestion_that_was_cut_off_with_its_search_goes_on_again_after_its_process_died(home: SweepFolder):
    definition, values = read_definition(home.path), {KEYS[0]: 0.65, KEYS[1]: 1.0}
    home.save(Trial("0000", 0, 0, values, values, tune_id="of the first search"))
    assert [claim(home, definition, dict(values), "a").id for _ in range(2)] == ["0000", "0000"]


def test_a_seed_other_than_the_configurations_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config, space = tmp_path / "config.yaml", tmp_path / "space.py"
    config.write_text(dump(tiny_config(tmp_path / "run")))
    space.write_text(
        "from ray import tune\nfrom raydet.sweep.space import Sweep\n"
        "sweep = Sweep('?', {'method.score_threshold': tune.uniform(0.5, 0.9)}, search='optuna')\n"
    )
    assert main(["tune", str(space), "--config", str(config), "--seeds", "5"]) == 2
    assert capsys.readouterr().err == (
        "raydet: error: --seeds 5: search='optuna' runs what it suggests with the configuration's seed, which is 3; "
        "leave --seeds out and set seed=5 (data.split_seed draws the labelled images)\n"
    )
    assert sorted(each.name for each in tmp_path.iterdir()) == ["config.yaml", "space.py"]


def test_the_plan_counts_a_burn_in_for_each_suggestion_that_may_need_its_own(tmp_path: Path):
    base, folder = tiny_config(tmp_path / "base"), SweepFolder(tmp_path / "home")
    data = family_of(base).prepare(base, tmp_path / "data")

    def plan(**space: Any) -> list[str]:
        sweep = Sweep("?", {key.replace("__", "."): domain for key, domain in space.items()}, search="optuna")
        definition = parse_definition(header_of("name", sweep, base, (3,), 16), folder.path)
        return describe(folder, definition, [], [base], 1).splitlines()

    def disk(num_burn_ins: int) -> str:
        found = disk_of(base, data, at_once=1, num_burn_ins=num_burn_ins)
        most, end = found.at_once / MB, found.at_the_end / MB
        return f"  disk: up to about {most:.0f} MB while it runs, {end:.0f} MB at the end"

    each, once = plan(optim__lr=tune.uniform(1e-4, 1e-3)), plan(method__unsup_reg_weight=tune.uniform(0.5, 2.0))
    assert "  points are suggested by optuna; shared burn-ins: at most 16; scheduler: none" in each
    assert "  points are suggested by optuna; shared burn-ins: at most 1; scheduler: none" in once
    assert disk(16) != disk(1)
    assert (each[-1], once[-1]) == (disk(16), disk(1))
