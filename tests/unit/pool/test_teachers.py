"""What the broker's teachers do when one of them is lost, without Ray: answers come when the test says so."""

from __future__ import annotations

import re
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError

from raydet.config.run import PoolConfig
from raydet.labels.desk import LabelDesk
from raydet.pool.messages import TeacherError
from raydet.pool.scaling import PoolTiming
from raydet.pool.teachers import Call, Teachers

NO_MEMORY = OutOfMemoryError("Memory on the node (IP: 10.0.0.7) was 15.3GB used / 16GB limit\nTop 10 memory users:\n")
WHY = (
    "its node ran out of memory, so Ray ended it (Memory on the node (IP: 10.0.0.7) was 15.3GB used / 16GB limit); "
    "lower pool.actors or labels.forward_images"
)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """One teacher, with images a and b to label; `pending` holds the calls in order."""
    monkeypatch.setattr("raydet.cluster.actors.ray.kill", lambda handle: None)
    desk, pending = LabelDesk(), deque()
    remote = SimpleNamespace(remote=lambda *arguments: object())
    teachers = Teachers(
        PoolConfig(images_per_call=1), PoolTiming(), desk, lambda answer, then: pending.append(then),
        lambda: SimpleNamespace(start=remote, label=remote),
        call_for=lambda keys: Call(keys, "digest", None, 1, None), on_answer=pytest.fail, on_death=lambda: None,
    )  # fmt: skip
    desk.publish(3)
    desk.request(3, ["a", "b"])
    teachers.fill()
    return SimpleNamespace(desk=desk, teachers=teachers, pending=pending)


def answer(pool: SimpleNamespace, value: Any) -> None:
    """Let the oldest call be answered."""
    pool.pending.popleft()(value)


def test_a_teacher_that_is_ended_for_its_memory_is_replaced_and_its_images_are_wanted_again(pool: SimpleNamespace):
    answer(pool, 4242)
    assert pool.desk.assignable() == 0
    answer(pool, NO_MEMORY)
    assert [member.name for member in pool.teachers.members()] == ["teacher-1"]
    assert pool.desk.assignable() == 2


def test_an_image_that_takes_too_much_memory_again_and_again_is_given_up_with_advice(pool: SimpleNamespace):
    for _ in range(4):
        answer(pool, 4242)  # it starts
        answer(pool, NO_MEMORY)  # at work on a
        answer(pool, NO_MEMORY)  # b waited behind it
    died = "4 teacher actors died while at work on it or a neighbour; the last: "
    assert pool.desk.failures(3, ["a", "b"]) == {"a": died + WHY}


def test_teachers_that_have_no_memory_to_start_in_are_an_error_with_advice(pool: SimpleNamespace):
    for _ in range(4):
        answer(pool, NO_MEMORY)
    with pytest.raises(TeacherError, match=re.escape(f"5 teacher actors in a row died at start: {WHY}")):
        answer(pool, NO_MEMORY)
