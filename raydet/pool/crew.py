"""Crew: the broker's teacher actors. Hires, watches and replaces them; one screen of Ray calls.

The crew belongs to the broker's process: Ray ends the actors when that process dies, and the next one hires its own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError

from raydet.config.run import PoolConfig
from raydet.labels.desk import Key
from raydet.pool.actors import Answer, TeacherActor
from raydet.pool.messages import TeacherError


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


class Crew:
    """The teachers that are alive or starting."""

    def __init__(self, config: PoolConfig, factory: bytes) -> None:
        self._config = config
        self._factory = factory
        self._members: dict[str, Teacher] = {}
        self._numbers = itertools.count()
        self._call_numbers = itertools.count()

    def hire(self) -> Teacher:
        """Create an actor; it has not started yet."""
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
        teacher = Teacher(f"teacher-{next(self._numbers)}", handle)
        self._members[teacher.name] = teacher
        return teacher

    def dismiss(self, teacher: Teacher) -> bool:
        """Remove an actor, dead or alive. False where it was removed before."""
        if self._members.pop(teacher.name, None) is None:
            return False
        ray.kill(teacher.handle)
        return True

    async def start(self, teacher: Teacher) -> None:
        """Wait until the actor can label. Raises ActorLostError, or TeacherError where its set-up fails."""
        try:
            teacher.pid = await teacher.handle.start.remote()
        except RayActorError as error:
            raise ActorLostError(str(error)) from None
        except RayTaskError as error:
            raise TeacherError(f"a teacher actor could not be set up: {error}") from None
        teacher.idle_since = time.monotonic()

    def distribute(self, assign: Callable[[str, int], list[Key]]) -> list[tuple[Teacher, int]]:
        """Fill all free places with calls drawn from `assign(name, number)`; returns the new calls, to be asked.

        The least busy teacher first, then the longest-serving one, so that under a light load the last ones stay idle.
        """
        new: list[tuple[Teacher, int]] = []
        for place in range(self._config.calls_in_flight):
            for teacher in self._members.values():
                if teacher.has_started and len(teacher.calls) <= place:
                    keys = assign(teacher.name, self._config.images_per_call)
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

    def __len__(self) -> int:
        return len(self._members)
