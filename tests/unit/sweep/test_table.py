"""What is shown of a search while it runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from raydet.metrics import MetricsWriter
from raydet.sweep.definition import read_definition
from raydet.sweep.live import LiveSweep
from raydet.sweep.table import SweepView, event_line, screen, totals
from tests.sweeps import BETA, BURN_IN, add_trial, evaluated, started, write_metrics, write_search


def watching(folder):
    sweep = LiveSweep(read_definition(folder))
    return sweep, lambda: [line for event in sweep.poll() if (line := event_line(sweep, event)) is not None]


def set_state(home, trial_id, state, message=""):
    home.save(home.trial(trial_id), state=state, message=message)


def text_of(renderable, width=120):
    stream = io.StringIO()
    Console(file=stream, width=width).print(renderable)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_trials_life_is_told_event_by_event(tmp_path):
    home = write_search(tmp_path)
    add_trial(home, "0000", {BETA: 0.5}, state="waiting")
    sweep, news = watching(tmp_path)
    assert news() == []
    set_state(home, "0000", "burn-in")
    assert news() == ["trial 0000 (unsup_reg_weight=0.5) begins with its burn-in"]
    set_state(home, "0000", "running")
    writer = MetricsWriter(home.run_dir("0000"), tensorboard=False)
    writer.write(started(BURN_IN))
    writer.write(evaluated(20, 0.1, model="student"))  # not what the trial is judged by
    writer.write(evaluated(20, 0.2))
    assert news() == ["trial 0000 (unsup_reg_weight=0.5) trains", "trial 0000  step 20  AP 20.0"]
    writer.write({"kind": "alarm", "step": 30, "time": 1030.0, "name": "x", "message": "no pseudo-box survives"})
    writer.write(evaluated(40, 0.25))
    writer.close()
    set_state(home, "0000", "done")
    assert news() == [
        "trial 0000  step 30  ALARM: no pseudo-box survives",
        "trial 0000  step 40  AP 25.0",
        "trial 0000 (unsup_reg_weight=0.5) is done: AP 25.0",
    ]
    assert news() == []


def test_failures_and_the_schedulers_stops_say_why(tmp_path):
    home = write_search(tmp_path)
    for name in ("0000", "0001"):
        add_trial(home, name, {BETA: 1.0}, state="running")
    _, news = watching(tmp_path)
    news()
    set_state(home, "0000", "failed", "OSError: [bold]disk")
    set_state(home, "0001", "stopped", "by the scheduler")
    assert news() == [
        "trial 0000 (unsup_reg_weight=1) FAILED: OSError: [bold]disk",
        "trial 0001 (unsup_reg_weight=1) stopped: by the scheduler",
    ]


def test_a_trial_that_a_searcher_adds_while_it_runs_is_noticed(tmp_path):
    home = write_search(tmp_path)
    sweep, news = watching(tmp_path)
    assert news() == [] and totals(sweep) == "no trials yet"
    add_trial(home, "0000", {BETA: 2.0}, state="running")
    assert news() == ["trial 0000 (unsup_reg_weight=2) trains"]


def test_the_time_to_go_of_a_search_is_the_work_left_over_the_trials_at_once(tmp_path):
    home = write_search(tmp_path)
    add_trial(home, "0000", {BETA: 0.5}, {40: 0.25})  # took 30 s
    for number, until in ((1, 20), (2, 30)):  # a second a step: 20 s and 10 s to go
        add_trial(home, f"000{number}", {BETA: 1.0}, state="running")
        write_metrics(home.run_dir(f"000{number}"), {}, start=BURN_IN, until=until)
    for number in (3, 4, 5):
        add_trial(home, f"000{number}", {BETA: 2.0}, state="waiting")
    sweep, news = watching(tmp_path)
    news()
    assert sweep.eta_s() == 60.0  # (20 + 10 + 3 x 30) / 2
    assert totals(sweep) == (
        "6 trials: 1 done, 2 running, 3 waiting   best AP 25.0 (unsup_reg_weight=0.5)   ETA about 0:01:00"
    )


def test_the_time_between_trials_counts_where_it_is_known(tmp_path):
    home = write_search(tmp_path)
    for number in range(4):
        add_trial(home, f"000{number}", {BETA: float(number)}, state="waiting")
    sweep, news = watching(tmp_path)
    news()
    for number, began in enumerate((1000.0, 1050.0)):  # each trains for 30 s, 20 s pass before the next begins
        home.save(home.trial(f"000{number}"), state="done", began=began)
        write_metrics(home.run_dir(f"000{number}"), {40: 0.25}, start=BURN_IN)
    news()
    assert sweep.eta_s() == 100.0  # 2 trials of 50 s, one at once


def test_before_any_trial_is_done_those_at_work_tell_how_long_one_lasts(tmp_path):
    home = write_search(tmp_path)
    add_trial(home, "0000", {BETA: 0.5}, state="running")
    write_metrics(home.run_dir("0000"), {}, start=BURN_IN, until=20)
    add_trial(home, "0001", {BETA: 1.0}, state="waiting")
    sweep, news = watching(tmp_path)
    assert sweep.eta_s() is None
    news()
    assert sweep.eta_s() == 50.0  # 20 to go, and a whole one of 10 + 20


def test_the_table_shows_those_at_work_first_and_says_what_it_leaves_out(tmp_path):
    home = write_search(tmp_path)
    add_trial(home, "0000", {BETA: 0.5}, {40: 0.25})
    add_trial(home, "0001", {BETA: 1.0}, {40: 0.5})
    add_trial(home, "0002", {BETA: 2.0}, state="running")
    write_metrics(home.run_dir("0002"), {20: 0.125}, start=BURN_IN)
    add_trial(home, "0003", {BETA: 4.0}, state="burn-in")
    write_metrics(home.burn_ins / "key", {}, start=0, until=5)
    add_trial(home, "0004", {BETA: 8.0}, state="failed", message="[red]x")
    add_trial(home, "0005", {BETA: 9.0}, state="waiting")
    sweep, news = watching(tmp_path)
    news()
    lines = text_of(screen(sweep, max_rows=4))
    assert [line.split() for line in lines[1:7]] == [
        ["trial", "unsup_reg_weight", "step", "AP", "state", "ETA"],
        ["0002", "2", "20/40", "12.5", "running", "0:00:20"],
        ["0003", "4", "5/40", "-", "burn-in", "0:00:35"],
        ["0004", "8", "-", "-", "failed"],
        ["0001", "1", "40/40", "50.0", "done"],
        ["...", "and", "2", "more"],
    ]
    assert lines[7].startswith("6 trials: 2 done, 1 burn-in, 1 running, 1 waiting, 1 failed   best AP 50.0")


def test_a_narrow_terminal_keeps_step_figure_and_state(tmp_path):
    home = write_search(tmp_path, keys=tuple(f"method.a_long_name_{i}" for i in range(8)))
    add_trial(home, "0000", {f"method.a_long_name_{i}": 0.123456 for i in range(8)}, {40: 0.25})
    sweep, news = watching(tmp_path)
    news()
    lines = text_of(screen(sweep, max_rows=5), width=80)
    assert any("40/40" in line and "25.0" in line and "done" in line for line in lines)


def test_what_is_over_is_not_read_again(tmp_path, monkeypatch):
    home = write_search(tmp_path)
    for number in range(3):
        add_trial(home, f"000{number}", {BETA: float(number)}, {40: 0.25}, state="done" if number else "running")
    sweep, news = watching(tmp_path)
    news()
    opened = []
    monkeypatch.setattr("raydet.train.progress.Tail.poll", lambda tail: opened.append(tail._path.parent.name) or [])
    monkeypatch.setattr("raydet.sweep.folder.SweepFolder.trial", lambda *_: pytest.fail("read again"))
    news()
    assert opened == ["0000"]


def test_without_a_terminal_it_prints_events_and_totals_but_not_what_was_there_before(tmp_path):
    home = write_search(tmp_path)
    add_trial(home, "0000", {BETA: 0.5}, {40: 0.25})
    add_trial(home, "0001", {BETA: 1.0}, state="running")
    stream = io.StringIO()
    with SweepView(tmp_path, console=Console(file=stream, force_terminal=False)):
        write_metrics(home.run_dir("0001"), {40: 0.5}, start=BURN_IN)
        set_state(home, "0001", "done")
    lines = stream.getvalue().splitlines()
    assert [line for line in lines if not line.startswith("2 trials")] == [
        "trial 0001  step 40  AP 50.0",
        "trial 0001 (unsup_reg_weight=1) is done: AP 50.0",
    ]
    assert lines[-1] == "2 trials: 2 done   best AP 50.0 (unsup_reg_weight=1)"
    assert "\x1b" not in stream.getvalue()


def test_on_a_terminal_it_draws_the_table(tmp_path):
    add_trial(write_search(tmp_path), "0000", {BETA: 0.5}, {40: 0.25})
    stream = io.StringIO()
    with SweepView(tmp_path, console=Console(file=stream, force_terminal=True, width=100, height=20)):
        pass
    assert "unsup_reg_weight" in stream.getvalue() and "1 trial: 1 done" in stream.getvalue()


def test_errors_of_the_search_pass_through_and_a_broken_display_does_not_disturb_it(tmp_path, capsys):
    home = write_search(tmp_path)
    add_trial(home, "0000", {BETA: 0.5}, state="running")
    with (
        pytest.raises(RuntimeError, match="of the search"),
        SweepView(tmp_path, console=Console(file=io.StringIO(), force_terminal=False)),
    ):
        (home.run_dir("0000") / "metrics.jsonl").write_text("nonsense\n")
        raise RuntimeError("of the search")
    assert "the progress display stopped: DataError" in capsys.readouterr().err
