"""What a curve of evaluations says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydet.report.inputs import RunRecords
from raydet.report.trends import Rise, curve_findings, past_best, rise_of
from tests.helpers import tiny_config


def points(*values: float, every: int = 10) -> list[tuple[int, float]]:
    return [(every * (i + 1), value) for i, value in enumerate(values)]


def test_the_rise_is_that_of_a_line_through_the_last_half():
    # Eight points: the last four, 0.30 to 0.36 at steps 50 to 80. They lie on a line, which rises by 0.06.
    found = rise_of(points(0.9, 0.9, 0.9, 0.9, 0.30, 0.32, 0.34, 0.36))
    assert found is not None
    assert (found.first, found.last, found.evaluations) == (50, 80, 4)
    assert found.rise == pytest.approx(0.06)
    assert found.figures == {"rise over steps 50 to 80": "+6.0", "evaluations there": "4"}


@pytest.mark.parametrize(
    "values",
    [
        (0.1, 0.2, 0.3),  # three evaluations say nothing
        (0.3, 0.3, 0.3, 0.3),
        (0.30, 0.303, 0.306, 0.309),  # 0.9 points in all
        (0.36, 0.34, 0.32, 0.30),
        # Mean 0.325, slope (-1.5 * -0.075 - 0.5 * 0.075 + 0.5 * -0.025 + 1.5 * 0.025) / 5 = 0.02 per evaluation; the
        # rest is -0.045, 0.085, -0.035, -0.005: its standard error sqrt(0.0105 / 2 / 5) = 0.0324 is greater.
        (0.25, 0.40, 0.30, 0.35),
    ],
)
def test_what_does_not_clearly_rise_is_not_called_rising(values: tuple[float, ...]):
    assert rise_of(points(*values)) is None


def test_a_rise_of_a_point_counts():
    assert rise_of(points(0.30, 0.3033, 0.3067, 0.31)) is not None


@given(st.lists(st.floats(0, 1), min_size=4, max_size=30), st.floats(-0.5, 0.5))
def test_a_rise_does_not_depend_on_the_height(values: list[float], shift: float):
    before, after = rise_of(points(*values)), rise_of(points(*(value + shift for value in values)))
    if before is not None and before.rise > 0.011 and after is not None:
        assert after.rise == pytest.approx(before.rise, abs=1e-9)


def test_a_curve_is_past_its_best_two_points_below_it():
    assert past_best(points(0.1, 0.3, 0.29, 0.28)) == (20, 0.3)
    assert past_best(points(0.1, 0.3, 0.29, 0.281)) is None
    assert past_best(points(0.1, 0.2, 0.3, 0.27)) is None  # one evaluation may be an accident
    assert past_best(points(0.3, 0.2, 0.1)) is None


def run_of(values: dict[int, float], folder: str = "run", end: str | None = "done") -> RunRecords:
    """A run with a burn-in of 30 steps, and evaluations of its teacher; `end`: why it ended, None where it has not."""
    config = tiny_config(Path(folder), method__burn_in_steps=30, optim__steps=200)
    records = [
        {"kind": "eval", "step": step, "split": "val", "model": "teacher" if step > 30 else "student", "AP": value}
        for step, value in values.items()
    ]
    ends = [] if end is None else [{"kind": "end", "step": max(values), "reason": end}]
    return RunRecords(Path(folder), config, [{"kind": "start", "step": 0, "judged": "teacher"}, *records, *ends])


def test_the_run_its_burn_in_and_its_control_are_judged_apart():
    burn_in = {10: 0.1, 15: 0.12, 20: 0.14, 30: 0.16}
    rising, flat = {40: 0.2, 50: 0.22, 60: 0.24, 70: 0.26}, {40: 0.2, 50: 0.2, 60: 0.2, 70: 0.2}
    said = [each.sentence for each in curve_findings(run_of(burn_in | rising), run_of(rising))]
    assert [each.split(":")[0] for each in said] == [
        "AP was still rising when the run ended",
        "The burn-in ended while AP was still rising",
        "The control was still rising too",
    ]
    assert curve_findings(run_of(flat), run_of(flat)) == []
    (fallen,) = curve_findings(run_of({40: 0.3, 50: 0.29, 60: 0.25, 70: 0.2}), None)
    assert "the checkpoint of step 40" in fallen.sentence
    assert fallen.figures == {"at step 40": "30.0", "at step 70": "20.0"}


@pytest.mark.parametrize("end", [None, "reached run.stop_at", "stopped", "failed"])
def test_a_run_that_has_not_come_to_its_end_is_not_told_to_train_longer(end: str | None):
    (found,) = curve_findings(run_of({40: 0.2, 50: 0.22, 60: 0.24, 70: 0.26}, end=end), None)
    assert found.sentence == "AP has been rising so far: the run has not come to its end, step 200."
    assert found.figures == {"rise over steps 40 to 70": "+6.0", "evaluations there": "4"}


def test_a_supervised_run_that_averages_nothing_is_judged_by_all_of_its_figures():
    # burn_in_steps as long as the run: no average of the weights, and nothing that begins after it
    method = {"name": "supervised", "burn_in_steps": 40}
    config = tiny_config(Path("run"), method=method, optim__steps=40)
    run = replace(run_of({10: 0.30, 20: 0.32, 30: 0.34, 40: 0.36}), config=config)
    (found,) = curve_findings(run, None)
    assert found.sentence == "AP was still rising when the run ended: train longer (optim.steps)."


def test_a_run_that_was_done_and_goes_on_is_not_done():
    run = run_of({40: 0.2, 50: 0.22, 60: 0.24, 70: 0.26})
    assert "train longer" in curve_findings(run, None)[0].sentence
    run.records.append({"kind": "start", "step": 70, "judged": "teacher"})
    assert "so far" in curve_findings(run, None)[0].sentence


def test_of_a_burn_in_that_is_not_over_nobody_says_how_it_ended():
    burn_in, rising = {10: 0.1, 15: 0.12, 20: 0.14, 25: 0.16}, {40: 0.2, 50: 0.22, 60: 0.24, 70: 0.26}
    assert curve_findings(run_of(burn_in, end=None), run_of(rising)) == []
    (found,) = curve_findings(run_of(burn_in | {40: 0.2}, end=None), None)
    assert found.sentence.startswith("The burn-in ended while AP was still rising")


def test_a_rise_has_figures():
    assert Rise(1, 2, 4, 0.0123).figures["rise over steps 1 to 2"] == "+1.2"
