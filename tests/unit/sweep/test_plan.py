"""How a search is laid out before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from ray import tune

from raydet.cli import main
from raydet.commands.tune import split_words
from raydet.contract import DataSizes
from raydet.doctor import estimate
from raydet.errors import ConfigError, UserError
from raydet.registry import family_of
from raydet.settings import dump
from raydet.sweep.burn_in import burn_in_key, has_burn_in
from raydet.sweep.definition import SweepDefinition
from raydet.sweep.folder import SweepFolder
from raydet.sweep.plan import (
    claims_of_trial,
    concurrency,
    disk_of,
    most_burn_ins,
    trials_of,
    with_shared_burn_ins,
)
from raydet.sweep.points import points_of
from raydet.sweep.run import describe
from raydet.sweep.space import Sweep, only_seeds, problems_of
from tests.helpers import tiny_classes, tiny_config

BETA = Sweep("?", {"method.unsup_reg_weight": tune.grid_search([0.5, 1.0])})
RAY = {"cluster__backend": "ray", "cluster__workers": 2, "cluster__gpus_per_worker": 1}
POOL = {"labels__source": "pool", "labels__lookahead": 1, "pool__gpus_per_actor": 0.5}


def test_every_point_runs_with_every_seed(tmp_path: Path):
    base = tiny_config(tmp_path)
    trials = trials_of(points_of(BETA), BETA, base, [0, 1])
    assert [trial.id for trial in trials] == ["0000-seed0", "0001-seed0", "0000-seed1", "0001-seed1"]
    assert trials[3].overrides == {"method.unsup_reg_weight": 1.0, "seed": 1, "data.split_seed": 1}
    (alone, _) = trials_of(points_of(BETA), BETA, base, [base.seed])
    assert alone.id == "0000" and alone.overrides == {"method.unsup_reg_weight": 0.5}


def test_a_single_seed_that_is_not_the_configurations_is_applied(tmp_path: Path):
    base = tiny_config(tmp_path)  # seed 3
    trials = trials_of(points_of(BETA), BETA, base, [5])
    assert [(trial.id, trial.seed) for trial in trials] == [("0000-seed5", 5), ("0001-seed5", 5)]
    assert trials[1].overrides == {"method.unsup_reg_weight": 1.0, "seed": 5, "data.split_seed": 5}


def test_a_searchers_burn_ins_are_at_most_one_each_and_one_where_no_key_changes_them(tmp_path: Path):
    config = tiny_config(tmp_path)
    assert most_burn_ins(config, ["method.unsup_reg_weight", "method.score_threshold"], 16) == 1
    assert most_burn_ins(config, ["method.unsup_reg_weight", "optim.lr"], 16) == 16
    without = tiny_config(tmp_path, run__stop_at=3)  # it ends within its burn-in
    assert most_burn_ins(without, ["optim.lr"], 16) == 0
    assert most_burn_ins(without, ["method.burn_in_steps"], 16) == 16


def test_a_point_that_the_data_refuses_is_found_before_a_burn_in_is_trained(tmp_path: Path):
    configs = [tiny_config(tmp_path, method__class_thresholds=own) for own in ({}, {"star": 0.5}, {"stars": 0.5})]
    of_no_search = cast(SweepDefinition, None)  # it is asked for after that
    with pytest.raises(ConfigError, match="the data has no class 'stars'; did you mean 'star'"):
        describe(SweepFolder(tmp_path / "home"), of_no_search, [], configs, 1)


def test_the_burn_in_of_a_search_over_thresholds_of_classes_is_one(tmp_path: Path):
    settings = [{}, {"star": 0.5}, {"star": 0.6, "circle": 0.2}]
    assert len({burn_in_key(tiny_config(tmp_path, method__class_thresholds=own)) for own in settings}) == 1


def test_without_a_space_only_the_seed_and_the_labelled_images_vary(tmp_path: Path):
    base, sweep = tiny_config(tmp_path), only_seeds()
    assert problems_of(sweep) == []
    trials = trials_of(points_of(sweep), sweep, base, [0, 1, 5])
    assert [trial.id for trial in trials] == ["0000-seed0", "0000-seed1", "0000-seed5"]
    assert [trial.overrides for trial in trials] == [{"seed": n, "data.split_seed": n} for n in (0, 1, 5)]


def test_a_space_file_may_stand_anywhere_among_the_settings_or_nowhere():
    assert split_words(["a.py", "seed=3"]) == split_words(["seed=3", "a.py"]) == ("a.py", ["seed=3"])
    assert split_words(["seed=3"]) == (None, ["seed=3"])
    with pytest.raises(UserError, match=r"a.py and b.py: one space file at a time, and settings as key.path=value"):
        split_words(["a.py", "seed=3", "b.py"])


@pytest.mark.parametrize("seeds", [[], ["--seeds", "3"]])
def test_a_search_in_which_nothing_varies_is_refused(seeds: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["tune", "--config", "c.yaml", *seeds]) == 2
    assert "nothing varies: name a space file" in capsys.readouterr().err


def test_samples_of_a_search_that_draws_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config, space = tmp_path / "config.yaml", tmp_path / "space.py"
    config.write_text(dump(tiny_config(tmp_path / "run")))
    space.write_text(
        "from ray import tune\nfrom raydet.sweep.space import Sweep\n"
        "sweep = Sweep('?', {'method.unsup_cls_weight': tune.grid_search([0.5, 1.0])})\n"
    )
    assert main(["tune", str(space), "--config", str(config), "--samples", "7"]) == 2
    assert capsys.readouterr().err == (
        "raydet: error: --samples 7: the search draws nothing at random (method.unsup_cls_weight: grids), every point "
        "of it is run once; leave --samples out, or give a key a random domain, e.g. tune.uniform(0.5, 0.9)\n"
    )
    assert sorted(each.name for each in tmp_path.iterdir()) == ["config.yaml", "space.py"]


def test_sixteen_points_over_theta_beta_and_gamma_share_one_burn_in(tmp_path: Path):
    space = {
        "method.iou_filter_threshold": tune.grid_search([0.3, 0.4, 0.5, 0.6]),
        "method.unsup_reg_weight": tune.grid_search([0.5, 1.0]),
        "method.unsup_iou_weight": tune.grid_search([1.0, 4.0]),
    }
    base, sweep = tiny_config(tmp_path), Sweep("?", space)
    trials = with_shared_burn_ins(trials_of(points_of(sweep), sweep, base, [3]), SweepFolder(tmp_path), base)
    assert len(trials) == 16 and len({trial.burn_in for trial in trials}) == 1 and trials[0].burn_in


def test_the_first_trial_of_each_burn_in_comes_first_and_lonely_ones_train_their_own(tmp_path: Path):
    space = {
        "method.iou_target_threshold": tune.grid_search([0.6, 0.7]),
        "method.unsup_reg_weight": tune.grid_search([0.5, 1.0]),
    }
    base, sweep = tiny_config(tmp_path), Sweep("?", space)
    trials = with_shared_burn_ins(trials_of(points_of(sweep), sweep, base, [3]), SweepFolder(tmp_path), base)
    assert [trial.id for trial in trials] == ["0000", "0002", "0001", "0003"]
    alone = Sweep("?", {"method.iou_target_threshold": tune.grid_search([0.6, 0.7])})
    lonely = with_shared_burn_ins(trials_of(points_of(alone), alone, base, [3]), SweepFolder(tmp_path), base)
    assert [trial.burn_in for trial in lonely] == [None, None]


def test_a_trial_on_ray_claims_its_workers_teachers_and_a_share_for_its_driver(tmp_path: Path):
    config = tiny_config(tmp_path, **RAY, **POOL)
    # 0.1 driver + 2 workers + 1 teacher; 2 workers + 0.5 teacher
    nodes = [{"CPU": 8.0, "GPU": 8.0}]
    assert [claim.what for claim in claims_of_trial(config)] == ["trial driver", "worker", "teacher"]
    assert concurrency([config], nodes, number=9) == 2  # 8 / 3.1 CPU = 2.6; 8 / 2.5 GPU = 3.2
    assert concurrency([config], nodes, number=9, limit=1) == 1
    assert concurrency([config], nodes, number=1) == 1  # no more than there are trials


def test_a_trial_in_one_process_claims_what_the_process_uses(tmp_path: Path):
    config = tiny_config(tmp_path, cluster__cpus_per_worker=2.0)
    assert concurrency([config], [{"CPU": 5.0}], number=9) == 2  # 5 / 2


def test_a_search_that_can_never_fit_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="GPU: 2 for 2 workers, together 2; the cluster has 1"):
        concurrency([tiny_config(tmp_path, **RAY)], [{"CPU": 8.0, "GPU": 1.0}], number=9)


def test_a_process_is_counted_whole_on_one_node(tmp_path: Path):
    config = tiny_config(tmp_path, cluster__cpus_per_worker=3.0)
    assert concurrency([config], [{"CPU": 5.0}, {"CPU": 5.0}], number=9) == 2  # 2 of 5 CPUs are left over on each


def test_an_elastic_trial_that_fits_at_its_smallest_runs_alone(tmp_path: Path):
    config = tiny_config(tmp_path, cluster__backend="ray", cluster__workers=4, cluster__min_workers=1)
    assert concurrency([config], [{"CPU": 2.0}], number=9) == 1


def test_a_run_that_ends_within_its_burn_in_shares_none(tmp_path: Path):
    assert has_burn_in(tiny_config(tmp_path))
    for stop in (2, 3):  # the burn-in has 3 steps
        assert not has_burn_in(tiny_config(tmp_path, run__stop_at=stop))


def test_the_disk_estimate_counts_what_runs_and_what_stays(tmp_path: Path):
    config = tiny_classes(tmp_path)
    data = family_of(config).prepare(config, tmp_path / "data")  # 12 images with labels, 42 without, 3 classes
    run = estimate.disk_of(config, DataSizes(12, 42, 3))
    disk = disk_of(config, data, at_once=2, num_burn_ins=1)
    trial = run.weights + run.learned + run.labels
    assert disk.at_the_end == run.weights // 2 + trial  # a burn-in has learned no labels yet
    assert disk.at_once == disk.at_the_end + 2 * trial
