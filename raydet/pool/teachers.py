"""Teachers: the broker's teacher actors. Hires them, hands them work, replaces them when they die.

The crew belongs to the broker's process: Ray ends the actors when that process dies, and the next one hires its own.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError

from raydet.config.run import PoolConfig
from raydet.labels.desk import Key, LabelDesk
from raydet.pool.actors import Answer, TeacherActor
from raydet.pool.messages import TeacherError
from raydet.pool.scaling import PoolTiming
from raydet.pool.tasks import Tasks


class ActorLostError(Exception):
    """The actor is gone; what it was working on has to be done by another."""


class WeightsLostError(Exception):
    """The object store no longer has the weights; they have to be published again."""


@dataclass(slots=True, eq=False)
class Teacher:
    """One actor as the broker sees it."""

    name: str
    handle: ActorHandle
    pid: int | None = None  # None until it has started
    calls: dict[int, list[Key]] = field(default_factory=dict)  # unanswered calls, the one it works on first
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def has_started(self) -> bool:
        """Whether it can take calls."""
        return self.pid is not None

    @property
    def idle_for_s(self) -> float:
        """Seconds since its last call was answered; 0 while it works or starts."""
        return 0.0 if self.calls or not self.has_started else time.monotonic() - self.idle_since


class Teachers:
    """The teachers that are alive or starting. Tells the desk when one of them is gone."""

    def __init__(
        self,
        config: PoolConfig,
        factory: bytes,
        timing: PoolTiming,
        *,
        desk: LabelDesk,
        tasks: Tasks,
        on_ready: Callable[[], None],
    ) -> None:
        """`tasks` runs what waits, and reports what cannot be mended; `on_ready` hears of free places."""
        self._config, self._factory, self._timing = config, factory, timing
        self._desk, self._tasks, self._on_ready = desk, tasks, on_ready
        self.size = config.actors  # how many there should be
        self._members: dict[str, Teacher] = {}
        self._names = itertools.count()
        self._call_numbers = itertools.count()
        self._deaths_at_start = 0
        self._blame: Counter[Key] = Counter()

    def fill(self) -> None:
        """Hire and dismiss until there are `size` teachers; the newcomers start in the background."""
        while len(self._members) < self.size:
            self._tasks.spawn(self._start(self._hire()))
        while len(self._members) > self.size:
            teacher = max(self.members(), key=lambda member: (not member.has_started, member.idle_for_s))
            self._dismiss(teacher)
        self._on_ready()

    def lost(self, teacher: Teacher, reason: str) -> None:
        """A call told that the teacher is dead: give its work to the others and hire another one."""
        if teacher.name not in self._members:
            return  # it had several calls; the first of them told us
        for key in next(iter(teacher.calls.values()), []):  # what it was working on when it died
            self._blame[key] += 1
            if self._blame[key] >= self._timing.deaths_per_key:
                why = f"{self._blame[key]} teacher actors died while at work on it or a neighbour; the last: {reason}"
                self._desk.fail(teacher.name, key, why)
        self._dismiss(teacher)
        self.fill()

    def forgive(self) -> None:
        """Forget who died of what (a new attempt)."""
        self._deaths_at_start = 0
        self._blame.clear()

    def retire(self, version: int) -> None:
        """Forget what is known about older keys."""
        self._blame = Counter({key: deaths for key, deaths in self._blame.items() if key[0] >= version})

    def _hire(self) -> Teacher:
        threads = max(1, int(self._config.cpus_per_actor))
        handle = (
            ray.remote(TeacherActor)
            .options(
                num_cpus=self._config.cpus_per_actor,
                num_gpus=self._config.gpus_per_actor,
                resources=dict(self._config.resources),
                max_restarts=0,
                scheduling_strategy="DEFAULT",  # not inside the training workers' placement group
            )
            .remote(self._factory, threads)
        )
        teacher = Teacher(f"teacher-{next(self._names)}", handle)
        self._members[teacher.name] = teacher
        return teacher

    def _dismiss(self, teacher: Teacher) -> None:
        """Remove a teacher, dead or alive; what it was working on is wanted again."""
        if self._members.pop(teacher.name, None) is not None:
            ray.kill(teacher.handle)
            self._desk.actor_died(teacher.name)

    async def _start(self, teacher: Teacher) -> None:
        """Wait until the teacher can label. Raises TeacherError where its set-up fails, or it dies again and again."""
        try:
            teacher.pid = await teacher.handle.start.remote()
        except RayTaskError as error:
            self._dismiss(teacher)
            raise TeacherError(f"a teacher actor could not be set up: {error}") from None
        except RayActorError as error:
            if teacher.name not in self._members:
                return  # dismissed before it had started
            self._dismiss(teacher)
            self._deaths_at_start += 1
            if self._deaths_at_start >= self._timing.deaths_at_start:
                raise TeacherError(f"{self._deaths_at_start} teacher actors in a row died at start: {error}") from None
            self.fill()
        else:
            self._deaths_at_start = 0
            teacher.idle_since = time.monotonic()
            self._on_ready()

    def distribute(self) -> list[tuple[Teacher, int]]:
        """Fill all free places with calls from the desk; returns the new calls, to be asked.

        The least busy teacher first, then the longest-serving one, so that under a light load the last ones stay idle.
        """
        new: list[tuple[Teacher, int]] = []
        if not self._desk.assignable():  # this is asked at every call to the broker
            return new
        most = self._config.calls_in_flight
        free = [teacher for teacher in self._members.values() if len(teacher.calls) < most and teacher.has_started]
        for place in range(most):
            for teacher in free:
                if len(teacher.calls) <= place:
                    keys = self._desk.assign(teacher.name, self._config.images_per_call)
                    if not keys:
                        return new
                    number = next(self._call_numbers)
                    teacher.calls[number] = keys
                    new.append((teacher, number))
        return new

    async def ask(self, teacher: Teacher, call: int, digest: str, weights: ObjectRef) -> Answer:
        """Wait for the labels of a call. Raises ActorLostError, WeightsLostError or TeacherError."""
        keys = teacher.calls[call]
        version, image_ids = keys[0][0], [image_id for _, image_id in keys]
        try:
            answer = await teacher.handle.label.remote(version, digest, [weights], image_ids)
        except RayActorError as error:
            raise ActorLostError(str(error)) from None  # the call stays listed: it tells what the actor was doing
        except RayTaskError as error:
            del teacher.calls[call]
            if isinstance(error.cause, RayError):
                raise WeightsLostError(str(error)) from None
            raise TeacherError(f"a teacher actor could not load version {version}: {error}") from None
        del teacher.calls[call]
        teacher.idle_since = time.monotonic()
        assert isinstance(answer, Answer)
        return answer

    def members(self) -> list[Teacher]:
        """Return all teachers, the longest-serving first."""
        return list(self._members.values())
