"""Ray actors of one kind that share some work: started, given work, replaced when they die, ended.

An actor class has `start(...)`, which does all that can fail and says where it runs, and `label(...)`, which does the
work. What the work is, who gets it and what a loss costs is said by a subclass of `ActorGroup`. The group never waits
itself: a process with an event loop gives it a `Background`'s `when`, one without a `Foreground`'s.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from raydet.errors import RunError

Work = TypeVar("Work")
Then = Callable[[Any], None]  # takes an answer, or the RayError that came instead
When = Callable[[ObjectRef, Then], None]
GONE = (RayActorError, OutOfMemoryError)
"""What a call raises whose actor has died; Ray has an error of its own where its memory monitor ended it."""


class Background:
    """Coroutines that run beside an asynchronous actor's calls. None of their errors is lost."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._on_error = on_error
        self._running: set[asyncio.Task[None]] = set()  # the event loop itself holds tasks only weakly

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Start it; returns at once."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)

    def when(self, answer: ObjectRef, then: Then) -> None:
        """Call `then` once the answer is there."""
        self.spawn(self._wait(answer, then))

    async def _wait(self, answer: ObjectRef, then: Then) -> None:
        try:
            value = await answer
        except RayError as error:
            value = error
        then(value)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_error(error)


class Foreground:
    """Waits in `wait`, which raises what `then` raises."""

    def __init__(self) -> None:
        self._pending: dict[ObjectRef, Then] = {}

    def when(self, answer: ObjectRef, then: Then) -> None:
        """Call `then` once the answer is there."""
        self._pending[answer] = then

    def wait(self, timeout_s: float) -> None:
        """Wait for the next answer, or so long."""
        ready, _ = ray.wait(list(self._pending), timeout=timeout_s)
        for answer in ready:
            then = self._pending.pop(answer)
            try:
                value = ray.get(answer)
            except RayError as error:
                value = error
            then(value)


@dataclass(slots=True, eq=False)
class Member(Generic[Work]):
    """One actor, alive or starting."""

    name: str
    handle: ActorHandle
    place: Any = None  # what its start() returned; None until it has started
    calls: dict[int, Work] = field(default_factory=dict)  # unanswered, the one it works on first
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def has_started(self) -> bool:
        """Whether it can take calls."""
        return self.place is not None

    @property
    def idle_for_s(self) -> float:
        """Seconds since its last call was answered; 0 while it works or starts."""
        return 0.0 if self.calls or not self.has_started else time.monotonic() - self.idle_since


class ActorGroup(ABC, Generic[Work]):
    """Keeps `size` actors, and keeps them busy. They end with this process, or with `close`."""

    noun = "actor"  # in messages
    prefix = "actor"  # of their names
    error: type[Exception] = RunError  # where one cannot be set up
    calls_in_flight = 2  # of each: one is at work, the next need not be waited for
    replaces_failing = False  # whether a member whose call fails is replaced as if it were dead

    def __init__(self, size: int, when: When, create: Callable[[], ActorHandle], start: Sequence[Any] = ()) -> None:
        """`create` starts a process without waiting for it; `start`: what its start() is told."""
        self.size, self._when, self._create, self._start = size, when, create, start
        self._members: dict[str, Member[Work]] = {}
        self._names, self._call_numbers = itertools.count(), itertools.count()

    # A subclass says what the work is.

    @abstractmethod
    def _next_work(self, member: Member[Work]) -> Work | None:
        """Take work for a member with a free place; None where there is none for it now."""

    def _has_work(self) -> bool:
        """Whether there may be work for anyone; asked often, so cheap."""
        return True

    @abstractmethod
    def _arguments(self, work: Work) -> Sequence[Any]:
        """Return what label() is told."""

    def _started(self, member: Member[Work]) -> None:
        """Hear of a member that can take calls."""

    @abstractmethod
    def _answered(self, member: Member[Work], work: Work, answer: Any) -> None:
        """Take an answer, or the RayTaskError of a call that failed, where such a member is not replaced."""

    @abstractmethod
    def _lost(self, member: Member[Work], error: RayError | None) -> None:
        """Take back the calls of a member that died, or (no `error`) was one too many; raise to give up."""

    # The rest is here.

    def members(self) -> list[Member[Work]]:
        """Return all members, the longest-serving first."""
        return list(self._members.values())

    def fill(self) -> None:
        """Start and end actors until there are `size`; the newcomers get ready by themselves. Hands out work."""
        while len(self._members) < self.size:
            name = f"{self.prefix}-{next(self._names)}"
            member = self._members[name] = Member(name, self._create())
            self._when(member.handle.start.remote(*self._start), partial(self._on_start, member))
        while len(self._members) > self.size:
            member = max(self.members(), key=lambda each: (not each.has_started, each.idle_for_s))
            self._remove(member)
            self._lost(member, None)
        self.hand_out()

    def hand_out(self) -> None:
        """Fill all free places.

        The least busy member first, then the longest-serving one, so that under a light load the last ones stay idle.
        """
        if not self._has_work():
            return
        most = self.calls_in_flight
        free = [member for member in self._members.values() if len(member.calls) < most and member.has_started]
        for place, member in itertools.product(range(most), free):
            if len(member.calls) > place:
                continue
            work = self._next_work(member)
            if work is not None:
                number = next(self._call_numbers)
                member.calls[number] = work
                answer = member.handle.label.remote(*self._arguments(work))
                self._when(answer, partial(self._on_answer, member, number))
            elif not self._has_work():
                return

    def close(self) -> None:
        """End all actors; what they were working on is not taken back."""
        for member in self.members():
            self._remove(member)

    def _remove(self, member: Member[Work]) -> None:
        del self._members[member.name]
        ray.kill(member.handle)

    def _on_start(self, member: Member[Work], place: Any) -> None:
        if member.name not in self._members:
            return
        if isinstance(place, RayTaskError):
            self._remove(member)
            raise self.error(f"a {self.noun} actor could not be set up: {place}")
        if isinstance(place, RayError):
            self._on_loss(member, place)
            return
        member.place, member.idle_since = place, time.monotonic()
        self._started(member)
        self.hand_out()

    def _on_answer(self, member: Member[Work], number: int, answer: Any) -> None:
        if member.name not in self._members:
            return  # another of its calls told of its end
        failed = isinstance(answer, RayTaskError)  # any other RayError: the actor is gone, or what it said
        if isinstance(answer, RayError) and (self.replaces_failing or not failed):
            self._on_loss(member, answer)  # the call stays listed: it tells what the actor was doing
            return
        work = member.calls.pop(number)
        member.idle_since = time.monotonic()
        self._answered(member, work, answer)
        self.hand_out()

    def _on_loss(self, member: Member[Work], error: RayError) -> None:
        self._remove(member)
        self._lost(member, error)
        self.fill()


def why_lost(error: RayError, to_lower: str) -> str:
    """Return why an actor was lost; where Ray's memory monitor ended it, in one line that says what is `to_lower`."""
    if not isinstance(error, OutOfMemoryError):
        return str(error)
    figures = str(error).partition("\n")[0]
    return f"its node ran out of memory, so Ray ended it ({figures}); lower {to_lower}"
