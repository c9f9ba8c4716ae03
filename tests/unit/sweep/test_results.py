"""What is read from a search's folder and written into it."""

from __future__ import annotations

import csv
import json

import pyarrow.parquet
import pytest

from raydet.errors import ConfigError
from raydet.metrics import MetricsWriter
from raydet.settings import load
from raydet.sweep.definition import read_definition, value_text
from raydet.sweep.results import best_point, collect, figure_of, summarise_points, write_results
from raydet.sweep.trial_metrics import TrialMetrics
from tests.sweeps import BETA, add_trial, evaluated, started, write_metrics, write_search


def two_seeds(folder):
    """Point 0: 0.30 and 0.34 at the end; point 1: 0.36 with one seed, the other has failed; point 2 has not begun."""
    home = write_search(folder, seeds=(0, 1))
    for seed, curve in ((0, {20: 0.31, 40: 0.30}), (1, {20: 0.2, 40: 0.34})):
        settings = {"seed": seed, "data.split_seed": seed}
        add_trial(home, f"0000-seed{seed}", {BETA: 0.5}, curve, seed=seed, settings=settings)
    add_trial(home, "0001-seed0", {BETA: 4.0}, {40: 0.36}, settings={"seed": 0, "data.split_seed": 0})
    failed = {"seed": 1, "state": "failed", "message": "OSError: disk full", "settings": {"seed": 1}}
    add_trial(home, "0001-seed1", {BETA: 4.0}, {20: 0.9}, **failed)
    add_trial(home, "0002-seed0", {BETA: 8.0}, state="waiting")
    return home


def test_a_row_tells_the_teachers_last_and_best_figure_and_the_time_at_work(tmp_path):
    two_seeds(tmp_path)
    rows = {row.trial.id: row for row in collect(tmp_path)}
    row = rows["0000-seed0"]
    assert (row.figure, row.best, row.metrics.step) == (0.30, (20, 0.31), 40)
    assert (row.metrics.seconds, row.metrics.burn_in_seconds) == (30.0, 0.0)  # forked at step 10, a second a step
    assert (rows["0002-seed0"].state, rows["0002-seed0"].figure, rows["0002-seed0"].best) == ("waiting", None, None)
    assert rows["0001-seed1"].trial.message == "OSError: disk full"


def test_a_run_with_a_burn_in_of_its_own_is_judged_by_its_student_until_there_is_a_teacher(tmp_path):
    records = [started(0), evaluated(10, 0.1, model="student"), evaluated(20, 0.2, model="student"), evaluated(20, 0.3)]
    metrics = TrialMetrics().fed(records)
    assert metrics.curve("AP") == ((10, 0.1), (20, 0.3))
    assert (metrics.seconds, metrics.burn_in_seconds) == (20.0, 10.0)


def test_time_between_two_attempts_does_not_count_and_what_is_measured_anew_replaces_the_old():
    records = [started(10), evaluated(20, 0.2), evaluated(30, 0.9)]
    metrics = TrialMetrics().fed([*records, started(20, at=5000.0), evaluated(30, 0.4, at=5007.0)])
    assert metrics.curve("AP") == ((20, 0.2), (30, 0.4))
    assert metrics.seconds == 27.0  # 20 and 7


def test_a_file_is_read_as_its_records_one_by_one(tmp_path):
    write_metrics(tmp_path, {20: 0.25, 30: 0.5}, start=0, until=30)
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write({"kind": "step", "step": 35, "time": 1035.0, "loss": 1.0})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "eval", "step": 40, ')  # unfinished
    metrics = TrialMetrics.read(tmp_path / "metrics.jsonl")
    assert metrics.curve("AP") == ((20, 0.25), (30, 0.5))
    assert (metrics.step, metrics.steps, metrics.seconds) == (35, 40, 35.0)
    assert TrialMetrics.read(tmp_path / "nothing") == TrialMetrics()


def test_points_have_the_mean_and_spread_of_the_seeds_that_are_done(tmp_path):
    two_seeds(tmp_path)
    points = summarise_points(collect(tmp_path))
    assert [(p.number, p.num_done, len(p.rows), p.is_whole) for p in points] == [
        (0, 2, 2, True),
        (1, 1, 2, False),  # the failed seed's 0.9 does not count
        (2, 0, 1, False),
    ]
    assert points[0].mean == pytest.approx(0.32) and points[0].sd == pytest.approx(0.02 * 2**0.5)  # (0.30, 0.34), n - 1
    assert (points[1].mean, points[1].sd, points[2].mean) == (0.36, None, None)
    assert best_point(points, "max") is points[1] and best_point(points, "min") is points[0]
    assert best_point(points[2:], "max") is None


def test_of_equal_points_the_earlier_is_best(tmp_path):
    home = write_search(tmp_path)
    for number in (0, 1):
        add_trial(home, f"000{number}", {BETA: float(number)}, {40: 0.25})
    best = best_point(summarise_points(collect(tmp_path)), "max")
    assert best is not None and best.number == 0


def test_a_damaged_trial_costs_its_own_figures_only(tmp_path):
    home = write_search(tmp_path)
    add_trial(home, "0000", {BETA: 0.5}, {40: 0.25})
    add_trial(home, "0001", {BETA: 1.0}, {40: 0.35})
    metrics = home.run_dir("0001") / "metrics.jsonl"
    metrics.write_bytes(b"\0\0\0\n" + metrics.read_bytes())
    rows = collect(tmp_path)
    assert [row.figure for row in rows] == [0.25, None]
    assert rows[1].trial.message.startswith("its figures cannot be read")
    assert figure_of(home.run_dir("0001"), "AP") is None


def test_both_tables_have_a_line_per_trial_and_a_column_per_key(tmp_path):
    home = write_search(tmp_path, keys=(BETA, "method.iou_branch.inputs"))
    add_trial(home, "0000", {BETA: 1, "method.iou_branch.inputs": ["roi_features"]}, {20: 0.25, 40: 0.125})
    add_trial(home, "0001", {BETA: 0.5, "method.iou_branch.inputs": []}, state="waiting", message='say "no", please')
    write_results(tmp_path)
    with (tmp_path / "results.csv").open(newline="") as file:
        done, waiting = csv.DictReader(file)
    assert done == {
        "id": "0000", "point": "0", "seed": "0", BETA: "1", "method.iou_branch.inputs": '["roi_features"]',
        "state": "done", "step": "40", "AP": "0.125", "AP50": "0.25", "AP75": "", "best_AP": "0.25", "best_step": "20",
        "seconds": "30", "message": "",
    }  # fmt: skip
    assert (waiting["state"], waiting["AP"], waiting["message"]) == ("waiting", "", 'say "no", please')
    table = pyarrow.parquet.read_table(tmp_path / "results.parquet")
    assert table.column(BETA).to_pylist() == [1.0, 0.5]
    assert table.column("best_AP").to_pylist() == [0.25, None]


def test_the_best_configuration_can_be_trained_and_says_where_it_comes_from(tmp_path):
    two_seeds(tmp_path)
    write_results(tmp_path)
    best = load(tmp_path / "best.yaml")
    assert best.method.unsup_reg_weight == 4.0
    assert (best.run.dir, best.run.fork_from, best.optim.steps) == (str(tmp_path / "best"), None, 40)
    assert best.seed == 3  # that of the base: seeds of the point are left out
    first, second = (tmp_path / "best.yaml").read_text().splitlines()[:2]
    assert first == '# raydet tune "il_net_beta": point 1, {"method.unsup_reg_weight": 4.0}'
    assert second == "# AP on val: 36.0 (1 of 2 seeds); seeds that are done: 0"


def test_a_name_cannot_become_a_setting_of_the_best_configuration(tmp_path):
    home = write_search(tmp_path, name="x\nseed: 99 #")
    add_trial(home, "0000", {BETA: 1.0}, {40: 0.5})
    write_results(tmp_path)
    assert load(tmp_path / "best.yaml").seed == 3


def test_the_user_is_told_every_point_best_first_and_what_to_do_next(tmp_path):
    two_seeds(tmp_path)
    assert write_results(tmp_path).splitlines() == [
        "AP on val in percent (max is best), mean ± standard deviation of the seeds:",
        "  point 1 (unsup_reg_weight=4): 36.0 (1 of 2 seeds)",
        "  point 0 (unsup_reg_weight=0.5): 32.0 ± 2.8 (2 of 2 seeds)",
        "  point 2 (unsup_reg_weight=8): waiting",
        f"all trials: {tmp_path}/results.csv (and .parquet)",
        f"the best point: raydet train {tmp_path}/best.yaml",
    ]


def test_without_a_finished_trial_there_are_tables_and_no_best_configuration(tmp_path):
    home = write_search(tmp_path)
    add_trial(home, "0000", {BETA: 1.0}, {20: 0.5}, state="running")
    assert "no trial is done" in write_results(tmp_path)
    assert not (tmp_path / "best.yaml").exists() and (tmp_path / "results.csv").exists()


def test_keys_that_end_alike_keep_their_whole_name(tmp_path):
    write_search(tmp_path, keys=(BETA, "optim.lr", "other.lr"))
    names = read_definition(tmp_path).short_names()
    assert names == {BETA: "unsup_reg_weight", "optim.lr": "optim.lr", "other.lr": "other.lr"}


def test_values_are_shown_as_people_write_them():
    values = [0.5, 1, True, None, "xx--", ["roi_features", "class_logits"]]
    assert [value_text(value) for value in values] == [
        "0.5", "1", "true", "null", "xx--", "roi_features, class_logits",
    ]  # fmt: skip


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"format": 1})])
def test_a_damaged_description_is_one_message(tmp_path, content):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(ConfigError, match="sweep.json: not the description of a search"):
        read_definition(tmp_path)


def test_a_folder_without_a_search_is_one_message(tmp_path):
    with pytest.raises(ConfigError, match="no sweep.json there; give the folder of a search"):
        read_definition(tmp_path)
