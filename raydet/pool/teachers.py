"""The broker's teacher actors, and what it costs an image that they die of it.

They belong to the broker's process: Ray ends the actors when that process dies, and the next one starts its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError

from raydet.cluster.actors import ActorGroup, Member, When, why_lost
from raydet.config.run import PoolConfig
from raydet.labels.desk import Key, LabelDesk
from raydet.pool.actors import TeacherActor
from raydet.pool.messages import TeacherError
from raydet.pool.scaling import PoolTiming

if TYPE_CHECKING:
    from raydet.arithmetic import Arithmetic


@dataclass(frozen=True, slots=True)
class Call:
    """What a teacher is asked: labels of one version, with its weights."""

    keys: list[Key]
    digest: str
    weights: ObjectRef
    attempt: int | None  # in which it was asked
    begun: Arithmetic | None  # what the training processes compute in


Teacher = Member[Call]  # `place` is the process id


def create_teacher(config: PoolConfig, factory: bytes) -> ActorHandle:
    """Start a teacher's process."""
    options: dict[str, Any] = {"num_cpus": config.cpus_per_actor, "num_gpus": config.gpus_per_actor, "max_restarts": 0}
    options |= {"resources": dict(config.resources), "scheduling_strategy": "DEFAULT"}  # not in the workers' own group
    return ray.remote(TeacherActor).options(**options).remote(factory, max(1, int(config.cpus_per_actor)))


class Teachers(ActorGroup[Call]):
    """The teachers that are alive or starting. Tells the desk when one of them is gone."""

    noun = prefix = "teacher"
    error = TeacherError

    def __init__(
        self,
        config: PoolConfig,
        timing: PoolTiming,
        desk: LabelDesk,
        when: When,
        create: Callable[[], ActorHandle],
        *,
        call_for: Callable[[list[Key]], Call],
        on_answer: Callable[[Teacher, Call, Any], None],
        on_death: Callable[[], None],
    ) -> None:
        """`call_for` adds the weights to keys, `on_answer` takes what a call brought, `on_death` hears of deaths."""
        super().__init__(config.actors, when, create)
        self.calls_in_flight, self._images_per_call = config.calls_in_flight, config.images_per_call
        self._timing, self._desk = timing, desk
        self._call_for, self._on_call_answered, self._on_death = call_for, on_answer, on_death
        self._deaths_at_start = 0
        self._blame: Counter[Key] = Counter()

    def forgive(self) -> None:
        """Forget who died of what (a new attempt)."""
        self._deaths_at_start = 0
        self._blame.clear()

    def retire(self, version: int) -> None:
        """Forget what is known about older keys."""
        self._blame = Counter({key: deaths for key, deaths in self._blame.items() if key[0] >= version})

    def _has_work(self) -> bool:
        return self._desk.assignable() > 0

    def _next_work(self, member: Teacher) -> Call | None:
        keys = self._desk.assign(member.name, self._images_per_call)
        return self._call_for(keys) if keys else None

    def _arguments(self, work: Call) -> tuple[Any, ...]:
        return work.keys[0][0], work.digest, [work.weights], [image_id for _, image_id in work.keys], work.begun

    def _started(self, member: Teacher) -> None:
        self._deaths_at_start = 0

    def _answered(self, member: Teacher, work: Call, answer: Any) -> None:
        self._on_call_answered(member, work, answer)

    def _lost(self, member: Teacher, error: RayError | None) -> None:
        if error is not None:
            self._blame_first_call(member, error)
        self._desk.actor_died(member.name)
        if error is not None and not member.has_started:
            self._deaths_at_start += 1
            if self._deaths_at_start >= self._timing.deaths_at_start:
                raise TeacherError(f"{self._deaths_at_start} teacher actors in a row died at start: {_why(error)}")
        self._on_death()

    def _blame_first_call(self, member: Teacher, error: RayError) -> None:
        for key in next((call.keys for call in member.calls.values()), []):  # what it was working on when it died
            self._blame[key] += 1
            if self._blame[key] >= self._timing.deaths_per_key:
                died = f"{self._blame[key]} teacher actors died while at work on it or a neighbour"
                self._desk.fail(member.name, key, f"{died}; the last: {_why(error)}")


def _why(error: RayError) -> str:
    return why_lost(error, to_lower="pool.actors or labels.forward_images")
