"""Keeping a group of actors at work, without Ray: answers come when the test says so."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayError, RayTaskError

from raydet.cluster.actors import ActorGroup, Background, Member
from raydet.errors import RunError


class Numbers(ActorGroup[int]):
    """Work on numbers; what was lost is done first."""

    noun = prefix = "worker"

    def __init__(self, size: int, work: range = range(0)) -> None:
        self.pending: dict[object, Callable[[Any], None]] = {}
        self.asked: list[tuple[str, int]] = []
        self.todo, self.done = deque(work), []
        self.gone: list[tuple[str, list[int], bool]] = []
        super().__init__(size, self.pending.__setitem__, self._new, start=("told",))
        self._created = 0

    def _new(self) -> Any:
        name = f"worker-{self._created}"
        self._created += 1

        def label(number: int) -> tuple[str, int]:
            self.asked.append((name, number))
            return name, number

        return SimpleNamespace(
            start=SimpleNamespace(remote=lambda *told: (name, *told)), label=SimpleNamespace(remote=label)
        )

    def _has_work(self) -> bool:
        return bool(self.todo)

    def _next_work(self, member: Member[int]) -> int | None:
        return self.todo.popleft() if self.todo else None

    def _arguments(self, work: int) -> list[int]:
        return [work]

    def _answered(self, member: Member[int], work: int, answer: Any) -> None:
        self.done.append((work, answer))

    def _lost(self, member: Member[int], error: Exception | None) -> None:
        self.gone.append((member.name, list(member.calls.values()), error is None))
        self.todo.extendleft(reversed(member.calls.values()))

    def answer(self, *key: object, value: Any = "here") -> None:
        """Let the answer to a call be there: (name, "told") for its start, (name, number) for work."""
        self.pending.pop(key)(value)


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr("raydet.cluster.actors.ray.kill", found.append)
    return found


def started(size: int, work: range = range(0)) -> Numbers:
    group = Numbers(size, work)
    group.fill()
    for number in range(size):
        group.answer(f"worker-{number}", "told")
    return group


def test_work_is_given_to_those_that_have_started_one_call_each_first():
    group = Numbers(2, range(5))
    group.fill()
    assert group.asked == []
    group.answer("worker-1", "told")
    assert group.asked == [("worker-1", 0), ("worker-1", 1)]  # two calls in flight
    group.answer("worker-0", "told")
    assert group.asked[2:] == [("worker-0", 2), ("worker-0", 3)]
    group.answer("worker-1", 0, value="zero")
    assert group.done == [(0, "zero")]
    assert group.asked[4:] == [("worker-1", 4)]
    assert [(member.name, list(member.calls.values())) for member in group.members()] == [
        ("worker-0", [2, 3]),
        ("worker-1", [1, 4]),
    ]


def test_under_a_light_load_the_last_ones_stay_idle():
    group = started(3)
    group.todo.extend([7, 8])
    group.hand_out()
    assert group.asked == [("worker-0", 7), ("worker-1", 8)]  # not both to the first


def test_a_dead_actor_is_replaced_once_and_its_work_is_done_by_another(killed: list[Any]):
    group = started(2, range(4))
    first = group.members()[0]
    group.answer("worker-0", 0, value=RayActorError())
    assert killed == [first.handle]
    assert [member.name for member in group.members()] == ["worker-1", "worker-2"]
    assert group.gone == [("worker-0", [0, 1], False)]  # the one it was at first
    group.answer("worker-0", 1, value=RayActorError())
    assert len(group.gone) == 1
    group.answer("worker-2", "told")
    assert group.asked[4:] == [("worker-2", 0), ("worker-2", 1)]


@pytest.mark.parametrize(
    "error", [OutOfMemoryError("ended by Ray's memory monitor"), ObjectLostError("0" * 56, "10.0.0.1", "call")]
)
def test_a_call_that_failed_by_no_error_of_the_actors_own_means_that_it_is_lost(error: RayError, killed: list[Any]):
    group = started(1, range(1))
    group.answer("worker-0", 0, value=error)
    assert (group.gone, group.done) == ([("worker-0", [0], False)], [])
    group.answer("worker-1", "told")
    assert group.asked[1:] == [("worker-1", 0)]


def test_one_that_dies_while_it_starts_is_replaced_too(killed: list[Any]):
    group = Numbers(1, range(1))
    group.fill()
    group.answer("worker-0", "told", value=RayActorError())
    assert group.gone == [("worker-0", [], False)]
    group.answer("worker-1", "told")
    assert group.asked == [("worker-1", 0)]


def test_one_that_cannot_be_set_up_is_an_error_and_no_other_is_tried(killed: list[Any]):
    group = Numbers(1)
    group.fill()
    with pytest.raises(RunError, match=r"a worker actor could not be set up: (.|\n)*no such folder"):
        group.answer("worker-0", "told", value=RayTaskError("start", "no such folder", ValueError("no such folder")))
    assert group.members() == []
    assert len(killed) == 1


def test_a_failed_call_is_an_answer_unless_such_members_are_replaced(killed: list[Any]):
    failure = RayTaskError("label", "out of memory", MemoryError())
    group = started(1, range(1))
    group.answer("worker-0", 0, value=failure)
    assert group.done == [(0, failure)]
    assert killed == []
    group = started(1, range(1))
    group.replaces_failing = True
    group.answer("worker-0", 0, value=failure)
    assert group.done == []
    assert group.gone == [("worker-0", [0], False)]


def test_too_many_are_ended_first_those_that_start_then_the_idle_ones(killed: list[Any]):
    group = started(3, range(3))
    assert group.asked == [("worker-0", 0), ("worker-0", 1), ("worker-1", 2)]  # the third was not there yet
    group.size = 4
    group.fill()
    group.size = 1
    group.fill()
    # 3 starts, 2 is idle; 0 and 1 are equally busy
    assert group.gone == [("worker-3", [], True), ("worker-2", [], True), ("worker-0", [0, 1], True)]
    assert len(killed) == 3
    assert group.asked[3:] == [("worker-1", 0)]  # it has one free place


def test_what_one_that_was_ended_says_is_not_heard(killed: list[Any]):
    group = started(1, range(1))
    group.close()
    group.answer("worker-0", 0, value="late")
    assert (group.done, group.gone, group.members()) == ([], [], [])
    group = Numbers(1)
    group.fill()
    group.close()
    group.answer("worker-0", "told", value=RayActorError())
    assert group.members() == []


def test_a_member_counts_as_idle_when_it_has_started_and_has_no_call(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("raydet.cluster.actors.time.monotonic", lambda: now[0])
    group = Numbers(1, range(1))
    group.fill()
    now[0] = 110.0
    assert group.members()[0].idle_for_s == 0.0
    group.answer("worker-0", "told")
    assert group.members()[0].idle_for_s == 0.0  # at work
    now[0] = 120.0
    group.answer("worker-0", 0)
    now[0] = 125.0
    assert group.members()[0].idle_for_s == 5.0


def test_in_the_background_answers_errors_and_what_a_handler_raises_all_arrive():
    async def run() -> tuple[list[Any], list[BaseException]]:
        values: list[Any] = []
        errors: list[BaseException] = []
        background = Background(errors.append)
        loop = asyncio.get_running_loop()
        good, dead, odd = loop.create_future(), loop.create_future(), loop.create_future()
        background.when(good, values.append)
        background.when(dead, values.append)
        background.when(odd, lambda value: 1 // value)
        assert values == []
        good.set_result(1)
        dead.set_exception(RayActorError())
        odd.set_result(0)
        for _ in range(5):
            await asyncio.sleep(0)
        return values, errors

    values, errors = asyncio.run(run())
    assert values[0] == 1
    assert isinstance(values[1], RayActorError)
    assert [type(error) for error in errors] == [ZeroDivisionError]
