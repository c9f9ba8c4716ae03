"""What the loop asks of a label source, in which order: the protocol of `raydet.labels.source` from the caller's side.

Lines read `request 5 by 4`: the labels of the images of step 5, by the teacher of version 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raydet.errors import StaleLabelError
from raydet.families.classification.config import ClassificationConfig
from raydet.records import PseudoLogits, TeacherRef
from raydet.registry import build_method
from raydet.train.checkpoint import latest_checkpoint
from tests.fakes import Book, RecordingSource, record
from tests.helpers import tiny_classes


def mean_teacher(run: Path, **changes: Any) -> ClassificationConfig:
    """Teachers of versions 2, 4 and 6; labels are asked for one step ahead; 7 steps.

    With lookahead A = 1 step s is labelled by the newest version not above max(2, s - 1): steps 2, 3, 4 by 2; steps
    5, 6 by 4; step 7 by 6. Checkpoints at the burn-in's end, every 3 steps from there on, and at the end: 2, 5, 7.
    """
    settings = {
        "method": {"name": "mean_teacher", "burn_in_steps": 2},
        "labels__publish_every": 2,
        "labels__lookahead": 1,
        "optim__steps": 7,
        "checkpoint__every": 3,
    }
    return tiny_classes(run, **{**settings, **changes})


STRAIGHT = [
    "rewind 0",
    *("flush", "checkpoint 2"),
    *("publish 2", "retire 2", "request 2 by 2", "request 3 by 2", "take 2 by 2"),
    *("request 4 by 2", "take 3 by 2"),
    *("publish 4", "retire 2", "request 5 by 4", "take 4 by 2"),
    *("flush", "checkpoint 5", "request 6 by 4", "take 5 by 4"),
    *("publish 6", "retire 4", "request 7 by 6", "take 6 by 4"),  # step 7 is for a run that may be made longer
    *("flush", "checkpoint 7"),
    "close",
]


def test_the_loop_rewinds_publishes_asks_ahead_takes_and_drains_before_it_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert record(mean_teacher(tmp_path), monkeypatch).told() == STRAIGHT


def test_a_run_that_goes_on_rewinds_and_publishes_the_teacher_it_still_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    book = record(mean_teacher(tmp_path, run__stop_at=5), monkeypatch)
    until = STRAIGHT.index("checkpoint 5") + 1
    assert book.told() == [*STRAIGHT[:until], "close"]
    book.events.clear()
    assert record(mean_teacher(tmp_path), monkeypatch, book).told() == [
        *("rewind 5", "publish 4", "retire 4"),  # before anything is asked for; and before step 5 no second checkpoint
        *("request 5 by 4", "request 6 by 4", "take 5 by 4"),
        *("publish 6", "retire 4", "request 7 by 6", "take 6 by 4"),
        *("flush", "checkpoint 7", "close"),
    ]


def test_labels_of_a_teacher_that_is_gone_after_a_resume_are_on_disk_with_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """At step 4 teacher 4 takes the place of teacher 2, which has labelled step 4 before: the source here forgets what
    was not flushed, and cannot make it again."""
    book = record(mean_teacher(tmp_path, run__stop_at=4), monkeypatch)
    book.events.clear()
    assert record(mean_teacher(tmp_path), monkeypatch, book).told()[:6] == [
        *("rewind 4", "retire 2"),  # older segments are not looked through
        *("publish 4", "retire 2"),
        *("request 4 by 2", "request 5 by 4"),
    ]


def test_a_source_that_fails_is_closed_and_nothing_is_saved_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    book = record(mean_teacher(tmp_path), monkeypatch, fails_at_take=4)  # at steps 2, 3, 4, 5
    assert book.told() == [*STRAIGHT[: STRAIGHT.index("take 5 by 4") + 1], "close"]
    found = latest_checkpoint(tmp_path / "checkpoints")
    assert found is not None and found.step == 5


def test_a_run_that_is_asked_to_stop_drains_the_source_and_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    book = record(mean_teacher(tmp_path), monkeypatch, stops_at_take=2)  # in step 3: 4 are done when it has ended
    assert book.told() == [*STRAIGHT[: STRAIGHT.index("take 3 by 2") + 1], "flush", "checkpoint 4", "close"]


def test_frozen_teachers_are_published_at_their_stages_and_label_each_image_of_stage_2_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """R2-D2 predicts anew at 4, 10 and 13 and remembers; an epoch is 3 steps of 12, so 36 of the 42 images."""
    book = record(tiny_classes(tmp_path, checkpoint__every=4), monkeypatch)
    stage_2 = book.events[: book.events.index(("checkpoint", 16, ()))]
    labels = Counter((version, each) for what, version, ids in stage_2 if what == "take" for each in ids)
    assert set(labels.values()) == {1}
    by_version = Counter(version for version, _ in labels)
    assert (by_version[10], by_version[13]) == (36, 36)  # steps 10, 11, 12 and 13, 14, 15: an epoch each
    assert 36 <= by_version[4] <= 42  # two epochs: in the second one most images are remembered
    asked = [event[1:] for event in book.events if event[0] == "request"]
    assert asked == [event[1:] for event in book.events if event[0] == "take"]  # without lookahead
    rest = [(what, number) for what, number, _ in book.events if what not in ("request", "take")]
    assert rest == [
        ("rewind", 0),
        *(("flush", None), ("checkpoint", 4), ("publish", 4), ("retire", 4)),
        *(("flush", None), ("checkpoint", 8)),  # 4 + 4
        *(("flush", None), ("checkpoint", 10), ("publish", 10), ("retire", 10)),  # the first reprediction
        *(("flush", None), ("checkpoint", 12)),
        *(("publish", 13), ("retire", 13)),
        *(("flush", None), ("checkpoint", 16)),  # stage 2 ends
        *(("flush", None), ("checkpoint", 20), ("close", None)),
    ]


@pytest.mark.parametrize(("lookahead", "publish_every"), [(0, 1), (0, 3), (2, 1), (3, 2)])
def test_whatever_the_schedule_the_order_is_that_of_the_protocol(
    lookahead: int, publish_every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    changes = {"labels__lookahead": lookahead, "labels__publish_every": publish_every, "checkpoint__every": 2}
    config = mean_teacher(tmp_path, **changes, optim__steps=9)
    book = record(config, monkeypatch)
    check_order(book, config)
    assert [number for what, number, _ in book.events if what == "checkpoint"] == [2, 4, 6, 8, 9]
    taken = [line for line in book.told() if line.startswith("take")]
    assert [line.split(" by ")[0] for line in taken] == [f"take {step}" for step in range(2, 9)]


def test_labels_by_a_teacher_of_a_later_stage_are_asked_for_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    method = {"name": "pseudo_label", "burn_in_steps": 2, "reprediction_interval_steps": 3}  # teachers 2 and 5
    config = mean_teacher(tmp_path, method=method, labels__publish_every=1, labels__lookahead=2)
    book = record(config, monkeypatch)
    check_order(book, config)
    assert book.told() == [
        *("rewind 0", "flush", "checkpoint 2"),
        *("publish 2", "retire 2", "request 2 by 2", "request 3 by 2", "request 4 by 2", "take 2 by 2"),
        *("take 3 by 2", "take 4 by 2"),  # steps 5 and 6 have to wait for teacher 5
        *("flush", "checkpoint 5"),
        *("publish 5", "retire 5", "request 5 by 5", "request 6 by 5", "request 7 by 5", "take 5 by 5"),
        *("request 8 by 5", "take 6 by 5"),  # without an end: the run may be made longer
        *("flush", "checkpoint 7", "close"),
    ]


def check_order(book: Book, config: ClassificationConfig) -> None:
    """The rules, one by one."""
    schedule, events = build_method(config).schedule(), book.events
    assert [what for what, _, _ in events].count("rewind") == 1 and events[0][0] == "rewind"
    assert [what for what, _, _ in events].count("close") == 1 and events[-1][0] == "close"
    published: set[int] = set()
    asked: set[tuple[int, int]] = set()  # step, version
    retired = -1
    for place, (what, number, ids) in enumerate(events):
        if what == "checkpoint":
            assert events[place - 1][0] == "flush"
        if what == "publish":
            assert number is not None and number not in published and schedule.is_publish_step(number)
            published.add(number)
            assert events[place + 1] == ("retire", schedule.version_for(number), ())
        if what == "retire":
            assert number is not None
            retired = number
        if what in ("request", "take"):
            step = book.step_of[ids]
            assert number == schedule.version_for(step) and number in published and number >= retired
            if what == "request":
                asked.add((step, number))
            else:
                ahead = range(step, step + config.labels.lookahead + 1)
                wanted = {(each, schedule.version_for(each)) for each in ahead}
                assert {(each, version) for each, version in wanted if version is not None and version <= step} <= asked


@pytest.mark.parametrize(("version", "age"), [(-1, 3), (3, -1)])
def test_a_label_older_than_the_bound_or_from_the_future_ends_the_run(
    version: int, age: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Published every 2 steps and asked for 1 ahead: at most 1 + 2 - 1 = 2 steps old; the first are of step 2."""
    real = RecordingSource.take

    def off(self: RecordingSource, image_ids: Sequence[str], asked: int) -> list[PseudoLogits]:
        return [replace(label, teacher=TeacherRef(version, "digest")) for label in real(self, image_ids, asked)]

    monkeypatch.setattr(RecordingSource, "take", off)
    with pytest.raises(StaleLabelError, match=rf"step 2: label of image '.*' has age {age}, allowed 0\.\.2"):
        record(mean_teacher(tmp_path), monkeypatch)
