"""Searches over classifiers: judged by accuracy, or by an error rate, whose best is the lowest."""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path

import pytest
from ray import tune

from raydet.metrics import MetricsWriter
from raydet.settings import load, resolve
from raydet.sweep.definition import read_definition
from raydet.sweep.folder import SweepFolder, Trial, header_of
from raydet.sweep.live import LiveSweep
from raydet.sweep.report import write_sweep_report
from raydet.sweep.results import collect, write_results
from raydet.sweep.space import Published, SpaceError, Sweep
from raydet.sweep.table import totals
from raydet.sweep.trial_metrics import TrialMetrics
from tests.helpers import tiny_config

ALPHA = "method.class_loss_weight"
SPACE = {ALPHA: tune.grid_search([0.1, 0.2, 0.5])}
PUBLISHED = Published("R2-D2, Table 2", "error, CIFAR-10 test, 4000 labels", {0.1: 5.78, 0.2: 5.44, 0.5: 6.11})


def classifier(folder: Path, method: str = "r2d2"):
    stages = {"burn_in_steps": 10, "d2_steps": 10, "finetune_steps": 10} if method == "r2d2" else {"burn_in_steps": 10}
    tree = {
        "run": {"dir": str(folder)},
        "data": {"labeled": {"path": "patterns"}, "labeled_per_class": 4, "val": {"path": "patterns"}},
        "method": {"name": method, **stages},
        "optim": {"steps": 40},
    }
    return resolve(tree, {})


def write_metrics(run: Path, curve: dict[int, float], *, judged: str | None = "student", model: str = "student"):
    writer = MetricsWriter(run, tensorboard=False)
    start = {"kind": "start", "step": 0, "time": 0.0, "steps": 40, "burn_in_steps": 10}
    writer.write(start | ({} if judged is None else {"judged": judged}))
    for step, error in curve.items():
        figures = {"accuracy": 1 - error, "error": error, "top5_error": None, "images": 10, "per_class": {}}
        record = {"kind": "eval", "step": step, "time": float(step), "split": "val", "model": model, **figures}
        writer.write(record)
    writer.close()


def search(folder: Path, errors: dict[float, dict[int, float]], sweep: Sweep) -> SweepFolder:
    """Write a search whose trials were evaluated as `errors` says: value -> step -> error."""
    home = SweepFolder(folder)
    trials = [Trial(f"{i:04d}", i, 0, {ALPHA: v}, {ALPHA: v}, state="done") for i, v in enumerate(errors)]
    home.begin(header_of("r2d2_alpha", sweep, classifier(folder), (0,), 1), trials)
    for trial, curve in zip(trials, errors.values(), strict=True):
        write_metrics(home.run_dir(trial.id), curve)
    return home


ERRORS = {0.1: {20: 0.1, 40: 0.25}, 0.2: {20: 0.5, 40: 0.125}, 0.5: {40: 0.375}}


def test_the_point_with_the_lowest_error_is_best_everywhere(tmp_path):
    search(tmp_path, ERRORS, Sweep("?", SPACE, metric="error", mode="min", published=PUBLISHED))
    rows = collect(tmp_path)
    assert [row.figure for row in rows] == [0.25, 0.125, 0.375]
    assert rows[0].best == (20, 0.1)
    lines = write_results(tmp_path).splitlines()
    assert lines[0] == "error on val in percent (min is best):"
    assert [line.split(": ")[-1] for line in lines[1:4]] == ["12.5", "25.0", "37.5"]
    assert load(tmp_path / "best.yaml").method.class_loss_weight == 0.2
    sweep = LiveSweep(read_definition(tmp_path))
    list(sweep.poll())
    assert "best error 12.5 (class_loss_weight=0.2)" in totals(sweep)


def test_the_table_has_a_classifiers_figures(tmp_path):
    search(tmp_path, {0.1: {20: 0.1, 40: 0.25}}, Sweep("?", SPACE, metric="error"))
    write_results(tmp_path)
    with (tmp_path / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["error"], row["accuracy"], row["top5_error"], row["best_error"]) == ("0.25", "0.75", "", "0.1")
    assert "AP" not in row


def test_published_errors_stand_beside_the_searchs_own(tmp_path):
    search(tmp_path, ERRORS, Sweep("?", SPACE, metric="error", published=PUBLISHED))
    page = write_sweep_report(tmp_path).read_text(encoding="utf-8")
    found = dict(re.findall(r"<section[^>]*><h2>(.*?)</h2>(.*?)</section>", page, flags=re.S))
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found["Beside R2-D2, Table 2"])).split())
    # Ours 25, 12.5, 37.5: mean 25. Theirs 5.78, 5.44, 6.11: mean 5.7767.
    assert "(error, CIFAR-10 test, 4000 labels there)" in text
    assert text.endswith("0.1 25.00 5.78 +0.00 +0.00 0.2 12.50 5.44 -12.50 -0.34 0.5 37.50 6.11 +12.50 +0.33")
    assert "12.5" in found["Summary"] and "last val error, min is best" in found["Summary"]


def test_without_a_metric_a_classifier_is_judged_by_accuracy_and_a_detector_by_ap(tmp_path):
    sweep = Sweep("?", SPACE)
    assert sweep.judged_by(classifier(tmp_path)) == ("accuracy", "max")
    assert sweep.judged_by(tiny_config(tmp_path)) == ("AP", "max")
    search(tmp_path, ERRORS, sweep)
    assert read_definition(tmp_path).metric == "accuracy"
    assert "accuracy on val in percent (max is best)" in write_results(tmp_path)


def test_a_metric_of_the_other_family_is_refused_with_the_ones_that_there_are(tmp_path):
    with pytest.raises(
        SpaceError, match="metric='AP' is never reported by method.name=r2d2; choose one of accuracy, e"
    ):
        header_of("x", Sweep("?", SPACE, metric="AP"), classifier(tmp_path), (0,), 1)
    with pytest.raises(SpaceError, match="metric='error' is never reported by method.name=il_net; choose one of AP, "):
        Sweep("?", SPACE, metric="error").judged_by(tiny_config(tmp_path))


def test_a_run_without_a_teacher_is_judged_by_its_student_all_along(tmp_path):
    write_metrics(tmp_path / "student", {5: 0.5, 20: 0.25})
    assert TrialMetrics.read(tmp_path / "student" / "metrics.jsonl").curve("error") == ((5, 0.5), (20, 0.25))
    write_metrics(tmp_path / "teacher", {5: 0.5, 20: 0.25}, judged="teacher")
    assert TrialMetrics.read(tmp_path / "teacher" / "metrics.jsonl").curve("error") == ((5, 0.5),)
    write_metrics(tmp_path / "old", {5: 0.5, 20: 0.25}, judged=None, model="teacher")
    assert TrialMetrics.read(tmp_path / "old" / "metrics.jsonl").curve("error") == ((20, 0.25),)


def test_the_published_figures_of_an_older_search_are_still_read(tmp_path):
    home = search(tmp_path, {}, Sweep("?", SPACE, metric="error", published=PUBLISHED))
    tree = json.loads(home.header_file.read_text())
    tree["published"]["points"] = [{"values": {ALPHA: 0.1}, "AP": 5.78}]
    home.header_file.write_text(json.dumps(tree))
    assert read_definition(tmp_path).published.at({ALPHA: 0.1}) == 5.78
