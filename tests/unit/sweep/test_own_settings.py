"""Settings that points of a search cannot have: something else would replace them without a word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from raydet.sweep.folder import SweepFolder
from raydet.sweep.run import _planned
from raydet.sweep.space import SpaceError, Sweep
from tests.helpers import tiny_config

BETA = {"method.unsup_reg_weight": tune.grid_search([0.5, 1.0])}


def planned(home: Path, sweep: Sweep, seeds: list[int] | None = None, **changes: Any) -> list[dict[str, Any]]:
    """Plan a search; return the settings of its trials."""
    base = tiny_config(home / "run", **changes)  # seed 3
    _, trials = _planned(SweepFolder(home), sweep, "name", base, None, seeds or [3])
    return [trial.overrides for trial in trials]


def refusal(home: Path, sweep: Sweep, seeds: list[int] | None = None, **changes: Any) -> str:
    with pytest.raises(SpaceError) as found:
        planned(home, sweep, seeds, **changes)
    return str(found.value)


def test_seeds_that_would_replace_a_swept_seed_are_refused_with_the_ways_out(tmp_path: Path):
    sweep = Sweep("?", {"data.split_seed": tune.grid_search([7, 8])})
    assert refusal(tmp_path, sweep, [0, 1, 2]) == (
        "--seeds 0 1 2 would replace data.split_seed, which point 0 of the search (data.split_seed=7) sets itself; "
        "leave --seeds out, or take data.split_seed out of the space file, or let the seeds set no more than the rest: "
        "Sweep(..., seed_keys=('seed',))"
    )
    assert planned(tmp_path, sweep) == [{"data.split_seed": 7}, {"data.split_seed": 8}]


@pytest.mark.parametrize(
    ("sweep", "number"),
    [
        (Sweep("?", {"seed": tune.randint(0, 9)}), 1),
        (Sweep("?", variants={"without": {}, "with": {"seed": 7}}), 2),
        (Sweep("?", BETA, settings={"seed": 7}), 2),
    ],
    ids=["space", "variants", "settings"],
)
def test_seeds_are_refused_wherever_the_space_file_sets_the_seed(tmp_path: Path, sweep: Sweep, number: int):
    assert "--seeds 5 would replace seed, which point" in refusal(tmp_path, sweep, [5])
    assert len(planned(tmp_path, sweep)) == number


def test_a_seed_within_a_whole_section_is_found(tmp_path: Path):
    data = tiny_config(tmp_path).data.model_dump(mode="json") | {"split_seed": 7}
    sweep = Sweep("?", variants={"a": {"data": data}})
    assert "would replace data.split_seed" in refusal(tmp_path, sweep, [0, 1])


def test_seeds_set_what_the_file_leaves_to_them(tmp_path: Path):
    sweep = Sweep("?", {"data.split_seed": tune.grid_search([7, 8])}, seed_keys=("seed",))
    assert planned(tmp_path, sweep, [0, 1]) == [
        {"data.split_seed": 7, "seed": 0},
        {"data.split_seed": 8, "seed": 0},
        {"data.split_seed": 7, "seed": 1},
        {"data.split_seed": 8, "seed": 1},
    ]


def test_a_swept_number_of_checkpoints_is_refused_with_the_reason(tmp_path: Path):
    assert refusal(tmp_path, Sweep("?", {"checkpoint.keep": tune.grid_search([2, 3])})) == (
        "point 0 of the search (checkpoint.keep=2) sets checkpoint.keep, which no trial can set: a trial keeps no more "
        "than it needs to go on, and in the end only the best one keeps any; take it out of the space file"
    )


@pytest.mark.parametrize(
    ("sweep", "key"),
    [
        (Sweep("?", {"run.dir": tune.grid_search(["a", "b"])}), "run.dir"),
        (Sweep("?", variants={"a": {"checkpoint": {"keep": 3}}}), "checkpoint.keep"),
        (Sweep("?", BETA, settings={"cluster.address": "auto"}), "cluster.address"),
        (Sweep("?", {"cluster.local_cpus": tune.randint(1, 9)}), "cluster.local_cpus"),
        (Sweep("?", {"cluster.max_failures": tune.grid_search([0, 1])}), "cluster.max_failures"),
    ],
)
def test_what_a_trial_has_from_its_search_cannot_be_set(tmp_path: Path, sweep: Sweep, key: str):
    assert re.match(rf"point 0 of the search \(.*\) sets {key}, which no trial can set: ", refusal(tmp_path, sweep))


def test_what_a_searcher_may_suggest_is_held_to_the_same(tmp_path: Path):
    pytest.importorskip("optuna")
    sweep = Sweep("?", {"checkpoint.keep": tune.randint(1, 9)}, search="optuna")
    assert "sets checkpoint.keep, which no trial can set" in refusal(tmp_path, sweep)
    sweep = Sweep("?", {"cluster.gpus_per_worker": tune.choice([0, 1])}, search="optuna")
    assert "and all get the same place" in refusal(tmp_path, sweep)


def test_trials_that_would_claim_different_places_are_refused(tmp_path: Path):
    sweep = Sweep("?", {"cluster.gpus_per_worker": tune.grid_search([0, 1])})
    assert refusal(tmp_path, sweep) == (
        "a trial of the search claims 1 CPU, another 1 CPU, 1 GPU, and all get the same place; give cluster.backend, "
        "cluster.cpus_per_worker and cluster.gpus_per_worker one value for the whole search"
    )
    mixed = Sweep("?", {"cluster.backend": tune.grid_search(["process", "ray"])})
    assert "claims 1 CPU, another 0.1 CPU" in refusal(tmp_path, mixed)


def test_workers_of_their_own_are_claimed_trial_by_trial(tmp_path: Path):
    sweep = Sweep("?", {"cluster.cpus_per_worker": tune.grid_search([1.0, 2.0])})
    assert len(planned(tmp_path, sweep, cluster__backend="ray")) == 2


def test_settings_of_the_run_that_are_a_trials_own_may_vary(tmp_path: Path):
    sweep = Sweep("?", {"run.stop_at": tune.grid_search([5, 6]), "checkpoint.every": tune.grid_search([2])})
    assert len(planned(tmp_path, sweep)) == 2
