from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from raydet.metrics import MetricsWriter, truncate_after
from raydet.settings import resolve
from raydet.train.progress import ProgressView, Tail
from raydet.train.status import Status, event_line, panel, step_line


def config(run_dir):
    tree = {
        "run": {"dir": str(run_dir)},
        "data": {"labeled": "x.json", "labeled_count": 4},
        "method": {"name": "il_net", "burn_in_steps": 10},
        "optim": {"steps": 100, "labeled_batch": 2, "unlabeled_batch": 2},
        "log": {"plain_interval_s": 1000.0},
    }
    return resolve(tree, {})


def start(step=0, attempt=0, at=1.0):
    return {
        "kind": "start", "step": step, "time": at, "attempt": attempt, "world": 2, "steps": 100, "method": "il_net",
    }  # fmt: skip


def step(number, at, **values):
    return {"kind": "step", "step": number, "time": at, "loss": 0.5, "images_per_s": 8.0, **values}


def evaluation(number, model, ap):
    return {
        "kind": "eval", "step": number, "time": float(number), "split": "val", "model": model,
        "AP": ap, "AP50": 0.5, "AP75": None,
    }  # fmt: skip


def alarm(message):
    return {"kind": "alarm", "step": 30, "time": 30.0, "name": "no_pseudo_boxes", "message": message}


def filled(*records):
    status = Status(steps=100, burn_in_steps=10)
    for record in records:
        status.take(record)
    return status


def test_the_time_to_go_follows_the_pace_between_records():
    # 20 steps in 40 s, evaluations included: 2 s a step; 60 steps to go.
    assert filled(start(), step(20, 10.0, step_s=0.1), step(40, 50.0, step_s=0.1)).eta_s == 120.0


def test_a_restart_does_not_count_into_the_pace():
    status = filled(step(20, 10.0), step(40, 50.0), start(40, attempt=1, at=500.0), step(60, 510.0, step_s=0.5))
    assert status.eta_s == 20.0  # 40 steps of 0.5 s


def test_a_plain_line_shows_what_is_there_and_nothing_else():
    assert step_line(filled(start(), step(5, 1.0))) == "step 5/100  burn-in until 10  loss 0.5  8 images/s"
    values = {
        "step_s": 1.0, "loss/sup/roi_cls/weighted": 0.3, "loss/unsup/roi_cls/weighted": 0.2,
        "pseudo/boxes_per_image": 2.5, "gate/nms/dropped": 3.0, "gate/score/dropped": 4.0,
        "labels/age_max": 3, "labels/age_mean": 1.5, "label_wait_s": 0.25,
    }  # fmt: skip
    assert step_line(filled(start(), step(40, 1.0, **values))) == (
        "step 40/100  loss 0.5 (sup 0.3 + unsup 0.2)  8 images/s  ETA 0:01:00  pseudo-boxes/image 2.5 kept, 7 dropped"
        "  label age 1.5 (max 3)  wait for labels 0.25 s"
    )


def test_a_burn_in_ends_with_the_run_at_the_latest():
    short = Status(steps=2, burn_in_steps=2000)
    short.take(step(1, 1.0))
    assert step_line(short).startswith("step 1/2  burn-in until 2  loss")


def test_a_loss_that_is_not_finite_is_named():
    assert "NOT FINITE: loss" in step_line(filled(step(5, 1.0, nonfinite=["loss"]) | {"loss": None}))


def test_events_get_a_line_and_checkpoints_do_not():
    assert event_line(start()) == "attempt 0: il_net begins, 2 workers"
    assert event_line(start(40, attempt=1)) == "attempt 1: il_net goes on from step 40, 2 workers"
    assert event_line(evaluation(20, "teacher", 0.254)) == "step 20  val teacher: AP 25.4  AP50 50.0  AP75 -"
    assert event_line(alarm("[bold]x")) == "step 30  ALARM: [bold]x"
    assert event_line({"kind": "checkpoint", "step": 1, "time": 1.0, "path": "x", "best": True}) is None


def test_the_panel_shows_losses_both_models_and_alarms_as_they_are():
    status = filled(
        start(),
        step(40, 1.0, **{"loss/sup/roi_cls/raw": 0.25, "loss/sup/roi_cls/weighted": 0.5}),
        evaluation(20, "student", 0.2),
        evaluation(20, "teacher", 0.3),
        evaluation(40, "teacher", 0.1),
        alarm("look at [red]this"),
    )
    stream = io.StringIO()
    Console(file=stream, width=100).print(panel("runs/a", status))
    text = stream.getvalue()
    for part in (
        "40/100",
        "roi_cls",
        "0.2500",
        "0.5000",
        "student  AP 20.0",
        "teacher  AP 10.0",
        "best AP so far 30.0",
    ):
        assert part in text
    assert "look at [red]this" in text


def classified(number, error, top5_error=None):
    figures = {"accuracy": 1 - error, "error": error, "top5_error": top5_error, "images": 8, "per_class": {}}
    return {"kind": "eval", "step": number, "time": 9.0, "split": "val", "model": "student", **figures}


def d2_step(number):
    values = {"loss/sup/ce/raw": 0.0, "loss/sup/ce/weighted": 0.0, "loss/d2/class/raw": 0.5}
    values |= {"loss/d2/class/weighted": 0.05, "loss/d2/entropy/raw": 1.0, "loss/d2/entropy/weighted": 0.03}
    labels = {"pseudo/confidence": 0.75, "pseudo/entropy": 0.5, "pseudo/changed": 0.125}
    return step(number, 2.0, stage="D2", **values, **labels)


def test_a_classifiers_line_names_its_stage_and_its_labels():
    status = filled(start() | {"stage_ends": [10, 60, 80]}, d2_step(40))
    assert step_line(status) == (
        "step 40/100  D2 until 60  loss 0.5 (d2 0.08)  8 images/s  "
        "pseudo-labels: confidence 0.75, entropy 0.5, 12.5 % changed"
    )
    assert step_line(filled(start(), d2_step(40))).startswith("step 40/100  D2 until 100")
    assert "D2 until 60" in step_line(filled(start() | {"stage_ends": [10, 60, 80]}, d2_step(60)))  # its last step


def test_a_classifiers_evaluation_has_accuracy_and_errors():
    assert event_line(classified(20, 0.25)) == "step 20  val student: accuracy 75.0  error 25.0"
    line = event_line(classified(20, 0.25, top5_error=0.0625))
    assert line == "step 20  val student: accuracy 75.0  error 25.0  top5_error 6.2"


def test_a_classifiers_panel_shows_the_losses_of_its_stage_alone():
    stream = io.StringIO()
    status = filled(start(), d2_step(40), classified(20, 0.25), classified(40, 0.5))
    Console(file=stream, width=100).print(panel("runs/a", status))
    lines = [" ".join(line.strip("│ ").split()) for line in stream.getvalue().splitlines()]
    assert "loss ce class entropy" in lines and "d2 raw - 0.5000 1.0000" in lines
    assert not any(line.startswith("sup") for line in lines)
    assert "student accuracy 50.0 error 50.0 (step 40)" in lines and "best accuracy so far 75.0" in lines


def test_a_panel_before_the_first_record():
    stream = io.StringIO()
    Console(file=stream, width=80).print(panel("runs/a", Status(steps=100, burn_in_steps=10)))
    assert "waiting for the first figures" in stream.getvalue()


def test_the_tail_waits_for_whole_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.poll() == []
    with path.open("a") as file:
        file.write('{"kind": "note", "step": 1, "time": 1.0}\n{"kind": "note", ')
        file.flush()
        assert [each["step"] for each in tail.poll()] == [1]
        file.write('"step": 2, "time": 2.0}\n')
    assert [each["step"] for each in tail.poll()] == [2]
    assert tail.poll() == []


def test_the_tail_goes_on_after_a_restart_has_rewritten_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(tmp_path, tensorboard=False)
    tail = Tail(path)
    for number in (1, 2, 3):
        writer.write(step(number, float(number)))
    assert len(tail.poll()) == 3
    writer.close()
    truncate_after(path, 1)
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(step(2, 4.0))
    writer.close()
    assert [(each["step"], each["time"]) for each in tail.poll()] == [(2, 4.0)]


def shown(tmp_path, *records, console):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    with ProgressView(tmp_path, config(tmp_path), console=console):
        for record in records:
            writer.write(record)
    writer.close()


def test_without_a_terminal_it_prints_lines_and_the_last_step_before_the_end(tmp_path):
    stream = io.StringIO()
    end = {"kind": "end", "step": 40, "time": 9.0, "reason": "done"}
    records = (start(), step(20, 1.0), step(40, 2.0), evaluation(40, "student", 0.2), end)
    shown(tmp_path, *records, console=Console(file=stream, force_terminal=False))
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "attempt 0: il_net begins, 2 workers",
        "step 40",  # the evaluation, at once
        "step 40/100",  # one line for both steps: the interval is not over
        "step 40",
    ]
    assert "\x1b" not in stream.getvalue()


def test_what_an_earlier_attempt_wrote_is_not_printed_again(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(evaluation(20, "student", 0.9))
    writer.close()
    stream = io.StringIO()
    shown(tmp_path, start(20, attempt=1, at=time.time()), console=Console(file=stream, force_terminal=False))
    assert stream.getvalue() == "attempt 1: il_net goes on from step 20, 2 workers\n"


def test_on_a_terminal_it_draws_the_panel(tmp_path):
    stream = io.StringIO()
    shown(tmp_path, start(), step(40, 1.0), console=Console(file=stream, force_terminal=True, width=80))
    assert "40/100" in stream.getvalue() and "╭" in stream.getvalue()


def test_errors_of_the_run_pass_through(tmp_path):
    with pytest.raises(RuntimeError, match="of the run"), ProgressView(tmp_path, config(tmp_path)):
        raise RuntimeError("of the run")


def test_a_broken_display_does_not_disturb_the_run(tmp_path, capsys):
    with ProgressView(tmp_path, config(tmp_path), console=Console(file=io.StringIO(), force_terminal=False)):
        (tmp_path / "metrics.jsonl").write_text("nonsense\n")
    assert "the progress display stopped: DataError" in capsys.readouterr().err
