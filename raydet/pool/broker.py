"""LabelBroker: the one process that knows which labels are wanted, who makes them, and where they are kept.

It owns the desk, the store and the teacher actors. It needs no CPU to speak of and no torch, and is restarted by Ray
when it dies. A restarted broker knows what is on disk and nothing else; the training processes notice, publish their
teachers again and ask again (see `raydet.pool.source`). Calls carry the attempt of the training process, so that those
of a worker group that has been replaced are ignored.
"""

from __future__ import annotations

import asyncio
import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import ray
from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError

from raydet.cluster.actors import Background
from raydet.config.run import PoolConfig
from raydet.errors import LabelConflictError, RunError, UserError
from raydet.labels.desk import Key, LabelDesk
from raydet.labels.store import PseudoLabelStore
from raydet.pool.actors import Answer
from raydet.pool.messages import Reply, TeacherError
from raydet.pool.scaling import PoolTiming, Sizer
from raydet.pool.teachers import Call, Teacher, Teachers, create_teacher
from raydet.pool.waiting import Waiting

if TYPE_CHECKING:
    from raydet.arithmetic import Arithmetic


class LabelBroker:
    """An asynchronous Ray actor; build it with `raydet.pool.launch.start_broker`."""

    def __init__(
        self, config: PoolConfig, factory: bytes, folder: str, keep_versions: int | None, timing: PoolTiming
    ) -> None:
        self._config, self._timing = config, timing
        self._incarnation = uuid.uuid4().hex
        self._desk = LabelDesk()
        self._store = PseudoLabelStore(folder, "broker", keep_versions=keep_versions)
        self._background = Background(self._fail)
        self._weights: dict[int, tuple[str, ObjectRef]] = {}  # version -> digest, weights
        self._begun: Arithmetic | None = None  # what the training processes compute in
        self._attempt: int | None = None
        self._rewound: int | None = None  # the attempt that the store was last rewound for
        self._retired = 0  # versions below are not needed any more
        self._error: UserError | RunError | None = None
        self._made = 0
        self._waiting = Waiting()
        self._teachers = Teachers(
            config, timing, self._desk, self._background.when, partial(create_teacher, config, factory),
            call_for=lambda keys: Call(keys, *self._weights[keys[0][0]], self._attempt, self._begun),
            on_answer=self._answered, on_death=self._waiting.wake_all,
        )  # fmt: skip
        self._has_begun = False

    async def rewind(self, attempt: int, version: int) -> Reply:
        """Begin an attempt: labels of teachers above `version` are gone when this returns. Once per attempt."""
        self._begin()
        if self._attempt is not None and attempt < self._attempt:
            return self._reply(attempt)
        self._attempt = attempt
        if self._rewound != attempt:
            self._desk.drop_newer(version)
            self._desk.forgive()
            self._store.drop_newer(version)
            self._weights = {v: known for v, known in self._weights.items() if v <= version}
            self._retired = 0  # the steps that are repeated may need what had been retired
            self._error = None
            self._rewound = attempt
            self._teachers.forgive()
            self._teachers.fill()  # teachers that could not be set up may be so now
            self._waiting.wake_all()
        return self._reply(attempt)

    async def publish(
        self,
        attempt: int,
        version: int,
        digest: str,
        weights: Mapping[str, np.ndarray],
        begun: Arithmetic | None = None,
    ) -> None:
        """Take a teacher's weights. Raises LabelConflictError where the version has others already."""
        if not self._admits(attempt) or version < self._retired:
            return
        self._begun = begun
        known = self._weights.get(version)
        if known is None:
            self._weights[version] = (digest, ray.put(weights))  # a copy of its own: the sender may die
        elif known[0] != digest:
            raise LabelConflictError(
                f"teacher version {version} was published with weights {known[0]} and now with {digest}; "
                f"the training processes have diverged, or two runs share one broker"
            )
        self._desk.publish(version)
        self._teachers.hand_out()

    async def request(self, attempt: int, version: int, image_ids: list[str]) -> None:
        """Want labels; what is in the store is not made again."""
        if self._admits(attempt):
            self._want(version, image_ids)
            self._teachers.hand_out()

    async def take(self, attempt: int, incarnation: str, version: int, image_ids: list[str], wait_s: float) -> Reply:
        """Wait up to `wait_s` for labels of one version, wanting them if need be; all of them, or none yet."""
        keys = [(version, image_id) for image_id in image_ids]
        if await self._wait(attempt, incarnation, keys, wait_s):
            return self._reply(attempt, table=self._store.get(keys))
        return self._reply(attempt, keys)

    async def flush(self, attempt: int, incarnation: str, wanted: dict[int, list[str]], wait_s: float) -> Reply:
        """Wait up to `wait_s` until these labels exist, then until everything is on disk."""
        keys = [(version, image_id) for version, ids in wanted.items() for image_id in ids]
        if await self._wait(attempt, incarnation, keys, wait_s):
            self._store.flush()
        return self._reply(attempt, keys)

    async def retire(self, attempt: int, version: int) -> None:
        """Forget labels and weights below `version`."""
        if self._admits(attempt) and version > self._retired:
            self._retired = version
            self._desk.retire(version)
            self._store.retire(version)
            self._weights = {v: known for v, known in self._weights.items() if v >= version}
            self._teachers.retire(version)

    async def close(self) -> None:
        """Write what is in memory and end the teachers."""
        self._store.flush()
        await self.resize(0)

    async def resize(self, size: int) -> None:
        """Have so many teachers from now on; what a dismissed one was working on is done by the others."""
        self._begin()
        self._teachers.size = size
        self._teachers.fill()

    async def teachers(self) -> dict[str, int | None]:
        """Return the process id of every teacher, None while it starts."""
        self._begin()
        return {teacher.name: teacher.place for teacher in self._teachers.members()}

    async def stats(self) -> dict[str, float]:
        """Return figures for logs."""
        return self._stats()

    # -- from here on nothing waits, except the two coroutines that say so --

    def _admits(self, attempt: int) -> bool:
        """Whether a call is of the present attempt; a broker that was restarted learns it from its first caller."""
        self._begin()
        if self._attempt is None:
            self._attempt = attempt
        if attempt > self._attempt:
            raise RuntimeError(f"attempt {attempt} did not begin with rewind(); the broker is at {self._attempt}")
        return attempt == self._attempt

    def _begin(self) -> None:
        """Start the background work; a restarted broker gets here with its first call."""
        if self._has_begun:
            return
        self._has_begun = True
        self._teachers.fill()
        if self._config.min_actors is not None and self._config.max_actors is not None:
            self._background.spawn(self._watch(self._config.min_actors, self._config.max_actors))

    def _want(self, version: int, image_ids: Sequence[str]) -> None:
        stored = {i for i in self._desk.missing(version, image_ids) if self._store.has((version, i))}
        new = self._desk.request(version, image_ids)
        self._desk.found(version, [image_id for image_id in new if image_id in stored])

    async def _wait(self, attempt: int, incarnation: str, keys: list[Key], wait_s: float) -> bool:
        """Wait until all labels are there (True), or until there is something to tell the caller (False)."""
        if not self._admits(attempt) or incarnation != self._incarnation:
            return False
        by_version: dict[int, list[str]] = {}
        for version, image_id in keys:
            by_version.setdefault(version, []).append(image_id)
        for version, image_ids in by_version.items():
            self._want(version, image_ids)
        self._teachers.hand_out()
        deadline = time.monotonic() + wait_s
        while attempt == self._attempt and self._error is None:
            if not any(self._desk.missing(v, ids) for v, ids in by_version.items()):
                return True
            left = deadline - time.monotonic()
            if left <= 0 or any(self._desk.failures(v, ids) for v, ids in by_version.items()):
                return False
            await self._waiting.until_made((key for key in keys if not self._desk.is_ready(key)), left)
        return False

    def _reply(self, attempt: int, keys: Sequence[Key] = (), *, table: object = None) -> Reply:
        failures: dict[str, str] = {}
        for version, image_id in keys:
            failures |= self._desk.failures(version, [image_id])
        return Reply(
            incarnation=self._incarnation,
            is_superseded=attempt != self._attempt,
            error=self._error,
            failures=failures,
            missing=[key for key in keys if not self._desk.is_ready(key)],
            unpublished=self._desk.unpublished(),
            table=table,
            stats=self._stats(),
        )

    def _answered(self, teacher: Teacher, call: Call, answer: Answer | RayTaskError) -> None:
        """Enter one call's answer, or find out why there is none."""
        version, has_news = call.keys[0][0], True  # for more callers than those whose labels were made
        if isinstance(answer, RayTaskError):
            if isinstance(answer.cause, RayError):  # the object store has lost the weights
                if self._knows(version, call.digest):
                    del self._weights[version]
                    self._desk.unpublish(version)
            elif call.attempt == self._attempt:
                raise TeacherError(f"a teacher actor could not load version {version}: {answer}")
            self._desk.give_back(teacher.name, call.keys)
        elif self._knows(version, call.digest):
            self._enter(teacher, version, answer)
            has_news = bool(answer.failures)
        else:  # a teacher of before a rewind; or its weights were lost, which is rare enough to do it again
            self._desk.give_back(teacher.name, call.keys)
        if has_news:
            self._waiting.wake_all()

    def _knows(self, version: int, digest: str) -> bool:
        return version in self._weights and self._weights[version][0] == digest

    def _enter(self, teacher: Teacher, version: int, answer: Answer) -> None:
        for image_id, reason in answer.failures.items():
            self._desk.fail(teacher.name, (version, image_id), reason)
        if answer.table is not None:
            self._store.append(answer.table)
            for image_id in answer.table["image_id"].to_pylist():
                if self._desk.answer(teacher.name, (version, image_id)):
                    self._made += 1
                    self._waiting.made((version, image_id))

    async def _watch(self, low: int, high: int) -> None:
        """Let the pool grow and shrink for as long as the broker lives."""
        sizer = Sizer(low, high, self._timing)
        while True:
            await asyncio.sleep(self._timing.tick_s)
            members = self._teachers.members()
            size = sizer.next_size(
                self._teachers.size,
                now=time.monotonic(),
                waiting=self._desk.assignable(),  # all that a teacher could take has been dispatched
                idle_for_s=max((member.idle_for_s for member in members), default=0.0),
                is_starting=not all(member.has_started for member in members),
            )
            if size != self._teachers.size:
                self._teachers.size = size
                self._teachers.fill()

    def _fail(self, error: BaseException) -> None:
        """An error in the background becomes everyone's error."""
        if not isinstance(error, UserError | RunError):
            error = TeacherError("".join(traceback.format_exception(error)))
        self._error = error
        self._waiting.wake_all()

    def _stats(self) -> dict[str, float]:
        counts, members = self._desk.counts(), self._teachers.members()
        actors = sum(member.has_started for member in members)
        return {
            "pool/wanted": float(counts.wanted),
            "pool/assigned": float(counts.assigned),
            "pool/ready": float(counts.ready),
            "pool/actors": float(actors),
            "pool/actors_starting": float(len(members) - actors),
            "labels/made": float(self._made),
            "labels/relabelled": float(counts.returned),
            "labels/ignored": float(counts.ignored),
        }
