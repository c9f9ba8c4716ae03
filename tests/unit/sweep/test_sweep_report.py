"""The page about a search."""

from __future__ import annotations

import html
import json
import re
import sys

import pytest

from raydet.cli import main
from raydet.errors import UserError
from raydet.sweep.report import write_sweep_report
from raydet.sweep.report_plots import Scale
from raydet.sweep.trial_metrics import step_curve
from tests.sweeps import BETA, add_trial, write_metrics, write_search

THETA, INPUTS = "method.iou_filter_threshold", "method.iou_branch.inputs"


def sections_of(page):
    """Return title -> visible text of each section, with single spaces."""
    found = re.findall(r"<section[^>]*><h2>(.*?)</h2>(.*?)</section>", page.read_text(encoding="utf-8"), flags=re.S)
    return {
        html.unescape(title): " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split()) for title, body in found
    }


def beta_search(folder):
    """Three points with two seeds; the last point's second seed has failed."""
    home = write_search(folder, seeds=(0, 1), published={0.5: 31.0, 1.0: 32.0, 8.0: 20.0})
    for point, (value, figures) in enumerate({0.5: (0.20, 0.22), 1.0: (0.24, 0.26), 4.0: (0.10, None)}.items()):
        for seed, figure in enumerate(figures):
            ended = {} if figure else {"state": "failed", "message": "OSError: <b>disk</b> full"}
            curve = {20: 0.3, 40: figure} if figure else {20: 0.05}
            add_trial(home, f"000{point}-seed{seed}", {BETA: value}, curve, seed=seed, settings={"seed": seed}, **ended)
    write_metrics(home.burn_ins / "key", {10: 0.05}, start=0)
    return home


def test_a_search_over_one_key_makes_a_page_with_every_section(tmp_path):
    beta_search(tmp_path)
    page = write_sweep_report(tmp_path)
    found = sections_of(page)
    assert list(found) == [
        "Summary", "Points", "AP against each key", "Beside IL-net, Table 1", "Learning curves of all trials",
        "Failures", "Time", "Trials",
    ]  # fmt: skip
    assert "25.0 ± 1.4 best AP (%), mean of 2 seeds no. 1 best point 5 done 1 failed 3 points" in found["Summary"]
    assert "1, best 25.00 1.41 2 of 2 30.00 1 2 10.00 - 1 of 2 30.00 4" in found["Points"]
    assert "Trial 0002-seed1, step 20: OSError: <b>disk</b> full" in found["Failures"]
    assert "<b>disk" not in page.read_text(encoding="utf-8")
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {"effect_0.png", "paper.png", "learning.png"}


def test_the_papers_curve_is_compared_over_the_points_that_both_have(tmp_path):
    beta_search(tmp_path)
    # Ours 21 and 25, mean 23; theirs 31 and 32, mean 31.5. 4.0 is not in the paper, 8.0 not in the search.
    text = sections_of(write_sweep_report(tmp_path))["Beside IL-net, Table 1"]
    assert "over the 2 points that both have" in text
    assert text.endswith("0.5 21.00 ± 1.41 31.00 -2.00 -0.50 1 25.00 ± 1.41 32.00 +2.00 +0.50")


def test_what_sharing_burn_ins_saved_is_told(tmp_path):
    beta_search(tmp_path)
    # One burn-in of 10 s for six trials: five more of 10 s would have been trained.
    assert (
        "6 trials started from 1 shared burn-in; that saved 50 s." in sections_of(write_sweep_report(tmp_path))["Time"]
    )


def test_two_crossed_keys_make_a_map_and_three_none(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("raydet.sweep.report_curves.grid_map", lambda *a: drawn.append(a) or b"")
    home = write_search(tmp_path / "two", keys=(BETA, THETA))
    for number, (beta, theta) in enumerate([(1.0, 0.3), (1.0, 0.4), (2.0, 0.3), (2.0, 0.4)]):
        state = "done" if number < 3 else "stopped"
        add_trial(home, f"000{number}", {BETA: beta, THETA: theta}, {40: 0.25 + number / 4}, state=state)
    write_sweep_report(tmp_path / "two")
    ((x, y, cells, label),) = drawn
    assert (x.values, y.values, label) == ((1.0, 2.0), (0.3, 0.4), "AP (%)")
    assert cells == {(0, 0): 25.0, (1, 0): 50.0, (0, 1): 75.0}  # (row of theta, column of beta); stopped: empty

    home = write_search(tmp_path / "three", keys=(BETA, THETA, INPUTS))
    for number in range(3):
        values = {BETA: 1.0 + number, THETA: 0.3, INPUTS: ["roi_features", "class_logits"][: number + 1]}
        add_trial(home, f"000{number}", values, {40: [0.5, 0.75, 0.25][number]})
    assert "Keys together" not in sections_of(write_sweep_report(tmp_path / "three")) and len(drawn) == 1


def test_many_curves_are_drawn(tmp_path):
    home = write_search(tmp_path, keys=(BETA, THETA, INPUTS))
    for number in range(12):
        values = {BETA: 10.0 ** (number - 6), THETA: 0.3, INPUTS: [] if number % 2 else ["roi_features"]}
        add_trial(home, f"{number:04d}", values, {20: 0.1, 40: number / 20})
    write_sweep_report(tmp_path)
    names = {file.name for file in (tmp_path / "plots").iterdir()}
    assert names == {"effect_0.png", "effect_1.png", "effect_2.png", "learning.png"}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in (tmp_path / "plots").iterdir())


@pytest.mark.parametrize("keys", [(BETA,), (BETA, THETA)])
def test_a_search_that_has_just_begun_has_a_page_too(tmp_path, keys):
    home = write_search(tmp_path, keys=keys, published={0.5: 31.0})
    add_trial(home, "0000", dict.fromkeys(keys, 0.5), state="waiting")
    add_trial(home, "0001", dict.fromkeys(keys, 0.25), {20: 0.25}, state="running")
    found = sections_of(write_sweep_report(tmp_path))
    assert "No trial is done, so no point can be called best." in found["Summary"]
    assert found["AP against each key"] == "No trial has been evaluated yet."
    assert "0001 running 25.00" in found["Trials"]


def test_a_search_without_trials_has_a_page_too(tmp_path):
    write_search(tmp_path)
    assert (
        sections_of(write_sweep_report(tmp_path))["Learning curves of all trials"] == "No trial has been evaluated yet."
    )


def test_a_search_draws_the_metrics_of_steps_that_its_space_asks_for(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("raydet.sweep.report_curves.learning", lambda *a: drawn.append(a) or b"")
    gate = "gate/quality/dropped"
    home = write_search(tmp_path, curves={gate: "boxes dropped by the gate", "never/measured": "nothing"})
    for number, mu in enumerate((0.5, 0.9)):
        add_trial(home, f"000{number}", {BETA: mu}, {40: 0.25})
        with (home.run_dir(f"000{number}") / "metrics.jsonl").open("a") as file:
            for step in (41, 42, 42, 43):  # the second 42 is of a resumed run
                file.write(json.dumps({"kind": "step", "step": step, "time": 9e3, gate: mu * step}) + "\n")
    found = sections_of(write_sweep_report(tmp_path))
    assert "Over the run" in found and "boxes dropped by the gate" in found["Over the run"]
    curves, label, _ = drawn[-1]
    assert label == "boxes dropped by the gate" and [curve.point for curve in curves] == ["0.5", "0.9"]
    assert list(curves[0].steps) == [41, 42, 43] and list(curves[1].values) == pytest.approx([36.9, 37.8, 38.7])


def test_a_curve_is_the_means_of_stretches(tmp_path):
    lines = [json.dumps({"kind": "step", "step": step, "time": 0, "x": float(step)}) for step in range(1, 8)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"kind": "step", "step": 8, "x"']))  # cut off
    # Seven steps in at most three parts: three each, and one is left.
    assert step_curve(tmp_path / "metrics.jsonl", "x", most=3) == [(2, 2), (5, 5), (7, 7)]
    assert step_curve(tmp_path / "metrics.jsonl", "y") == step_curve(tmp_path / "none.jsonl", "x") == []


def test_the_best_point_with_a_seed_missing_is_marked(tmp_path):
    home = write_search(tmp_path, seeds=(0, 1))
    add_trial(home, "0000-seed0", {BETA: 1.0}, {40: 0.5})
    add_trial(home, "0000-seed1", {BETA: 1.0}, seed=1, state="waiting")
    assert "Only 1 of the best point's 2 seeds are done." in sections_of(write_sweep_report(tmp_path))["Summary"]


def test_scales_are_logarithmic_over_decades_and_by_name_for_what_is_no_number():
    assert Scale.of("x", [1.0, 0.1]) == Scale("x", (0.1, 1.0), True, True)
    assert Scale.of("x", [0.5, 4]) == Scale("x", (0.5, 4), True, False)
    assert Scale.of("x", [0.0, 100.0]).is_log is False
    assert Scale.of("x", [True, False, True]) == Scale("x", (True, False), False, False)
    assert Scale.of("x", [["b"], ["a"], None]).values == (["b"], ["a"], None)


def test_raydet_report_takes_the_folder_of_a_search(tmp_path, capsys):
    beta_search(tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'raydet\[plots\]'"):
        write_sweep_report(tmp_path)
