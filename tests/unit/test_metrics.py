from __future__ import annotations

import json
import math

import pytest

from raydet.errors import DataError
from raydet.metrics import (
    MetricsWriter,
    headline,
    losses_of,
    mode_of,
    read_metrics,
    seconds_at_work,
    truncate_after,
)


def record(step, **values):
    return {"kind": "step", "step": step, "time": 1.0, **values}


def test_records_come_back_as_they_were_written(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(record(20, loss=0.5, **{"pseudo/per_class": [1, 2]}))
    writer.write({"kind": "eval", "step": 20, "time": 2.0, "per_class": {"Löwe": {"AP": None, "AP50": 0.5}}})
    found = read_metrics(tmp_path / "metrics.jsonl")  # before close: every record is flushed
    writer.close()
    assert found == [
        record(20, loss=0.5, **{"pseudo/per_class": [1, 2]}),
        {"kind": "eval", "step": 20, "time": 2.0, "per_class": {"Löwe": {"AP": None, "AP50": 0.5}}},
    ]


def test_figures_that_are_not_finite_become_null_and_are_named(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=True)
    writer.write(record(1, loss=math.nan, lr=0.1, sizes=[1.0, math.inf], deep={"a": -math.inf}))
    writer.close()
    (found,) = read_metrics(tmp_path / "metrics.jsonl")
    assert found["loss"] is None and found["sizes"] == [1.0, None] and found["deep"] == {"a": None}
    assert found["nonfinite"] == ["loss", "sizes/1", "deep/a"]


def test_tensorboard_gets_the_numbers_of_steps_and_evaluations(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=True)
    writer.write(record(1, loss=0.25, flag=True, **{"pseudo/per_class": [1]}))
    writer.write({"kind": "eval", "step": 1, "time": 1.0, "split": "val", "model": "teacher", "AP": 0.5, "APs": None})
    writer.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"loss" in content and b"val/teacher/AP" in content
    assert b"per_class" not in content and b"flag" not in content and b"APs" not in content


def test_without_tensorboard_there_is_no_event_file(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(record(1))
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_an_unfinished_last_line_is_ignored_and_a_new_writer_cuts_it_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(record(1)) + '\n{"kind": "st')
    assert read_metrics(path) == [record(1)]
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(record(2))
    writer.close()
    assert read_metrics(path) == [record(1), record(2)]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(record(1))}\nnonsense\n{json.dumps(record(2))}\n")
    said = "metrics.jsonl, line 2: not a JSON object: .*; mend or delete that line: only what it says is lost"
    with pytest.raises(DataError, match=said):
        read_metrics(path)
    with pytest.raises(DataError, match=said):
        truncate_after(path, 1)
    path.write_text('{"kind": "step"}\n')
    with pytest.raises(DataError, match="line 1: not a metrics record .*; mend or delete that line"):
        read_metrics(path)


def test_a_missing_file_has_no_records(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    truncate_after(tmp_path / "metrics.jsonl", 5)
    assert list(tmp_path.iterdir()) == []


def test_truncation_keeps_the_step_itself_and_drops_later_ones(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record(step)) + "\n" for step in (10, 20, 30, 40)) + '{"kind"')
    truncate_after(path, 20)
    assert [each["step"] for each in read_metrics(path)] == [10, 20]
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_the_headline_of_an_evaluation_follows_from_what_was_measured():
    detection = {"AP50": 0.5, "AP": 0.25, "AP75": None, "APs": 0.1, "step": 3}
    assert list(headline(detection).items()) == [("AP", 0.25), ("AP50", 0.5), ("AP75", None)]
    classification = {"error": 0.25, "accuracy": 0.75, "top5_error": 0.125, "images": 8}
    assert list(headline(classification).items()) == [("accuracy", 0.75), ("error", 0.25), ("top5_error", 0.125)]
    assert list(headline(classification | {"top5_error": None})) == ["accuracy", "error"]


def test_the_time_between_two_attempts_is_not_time_at_work():
    def at(kind, time):
        return {"kind": kind, "step": 0, "time": time}

    monday = [at("start", 100.0), at("step", 130.0), at("end", 140.0)]
    friday = [at("start", 345_700.0), at("step", 345_720.0)]  # killed before it could say so
    again = [at("start", 400_000.0)]
    assert seconds_at_work([*monday, *friday, *again]) == 40.0 + 20.0
    assert seconds_at_work(again) == 0.0 and seconds_at_work([]) == 0.0


def test_of_errors_the_lowest_is_best():
    names = ("AP", "AP75", "accuracy", "error", "top5_error")
    assert [mode_of(name) for name in names] == ["max", "max", "max", "min", "min"]


def test_losses_are_named_once_in_the_order_of_the_record():
    keys = ("loss", "loss/sup/ce/raw", "loss/sup/ce/weighted", "loss/d2/class/raw", "loss/odd", "lr")
    assert losses_of(dict.fromkeys(keys, 0.5)) == [("sup", "ce"), ("d2", "class")]
