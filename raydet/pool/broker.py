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
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import ray
from ray import ObjectRef

from raydet.config.run import PoolConfig
from raydet.errors import LabelConflictError
from raydet.labels.desk import Key, LabelDesk
from raydet.labels.store import PseudoLabelStore
from raydet.pool.actors import Answer
from raydet.pool.crew import ActorLostError, Crew, Teacher, WeightsLostError
from raydet.pool.messages import Reply, TeacherError
from raydet.pool.scaling import PoolTiming, next_size


class LabelBroker:
    """An asynchronous Ray actor; build it with `raydet.pool.launch.start_broker`."""

    def __init__(
        self, config: PoolConfig, factory: bytes, folder: str, keep_versions: int | None, timing: PoolTiming
    ) -> None:
        self._config, self._timing = config, timing
        self._incarnation = uuid.uuid4().hex
        self._desk = LabelDesk()
        self._store = PseudoLabelStore(folder, "broker", keep_versions=keep_versions)
        self._crew = Crew(config, factory)
        self._size = config.actors  # how many teachers there should be
        self._weights: dict[int, tuple[str, ObjectRef]] = {}  # version -> digest, weights
        self._attempt: int | None = None
        self._rewound: int | None = None  # the attempt that the store was last rewound for
        self._retired = 0  # versions below are not needed any more
        self._error: str | None = None
        self._blame: Counter[Key] = Counter()
        self._deaths_at_start = 0
        self._late_since: float | None = None
        self._made = 0
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

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
            self._retired = min(self._retired, version)
            self._error = None
            self._deaths_at_start = 0
            self._blame.clear()
            self._rewound = attempt
            self._resize(self._size)  # teachers that could not be set up may be so now
            self._wake()
        return self._reply(attempt)

    async def publish(self, attempt: int, version: int, digest: str, weights: Mapping[str, np.ndarray]) -> None:
        """Take a teacher's weights. Raises LabelConflictError where the version has others already."""
        if not self._admits(attempt) or version < self._retired:
            return
        known = self._weights.get(version)
        if known is None:
            self._weights[version] = (digest, ray.put(weights))  # a copy of its own: the sender may die
        elif known[0] != digest:
            raise LabelConflictError(
                f"teacher version {version} was published with weights {known[0]} and now with {digest}; "
                f"the training processes have diverged, or two runs share one broker"
            )
        self._desk.publish(version)
        self._dispatch()

    async def request(self, attempt: int, version: int, image_ids: list[str]) -> None:
        """Want labels; what is in the store is not made again."""
        if self._admits(attempt):
            self._want(version, image_ids)
            self._dispatch()

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
        if self._admits(attempt):
            self._retired = max(self._retired, version)
            self._desk.retire(version)
            self._store.retire(version)
            self._weights = {v: known for v, known in self._weights.items() if v >= version}
            self._blame = Counter({key: n for key, n in self._blame.items() if key[0] >= version})

    async def close(self) -> None:
        """Write what is in memory and end the teachers."""
        self._store.flush()
        self._size = 0
        for teacher in self._crew.members():
            self._crew.dismiss(teacher)

    async def add_actor(self) -> None:
        """Have one teacher more."""
        self._begin()
        self._resize(self._size + 1)

    async def remove_actor(self) -> None:
        """Have one teacher less; what it was working on is done by the others."""
        self._begin()
        self._resize(self._size - 1)

    async def teachers(self) -> dict[str, int | None]:
        """Return the process id of every teacher, None while it starts."""
        self._begin()
        return {teacher.name: teacher.pid for teacher in self._crew.members()}

    async def stats(self) -> dict[str, float]:
        """Return figures for logs."""
        return self._stats()

    # -- from here on nothing waits, except the three coroutines that say so --

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
        if not self._tasks:
            self._spawn(self._watch())
            self._resize(self._size)

    def _want(self, version: int, image_ids: Sequence[str]) -> None:
        stored = [i for i in self._desk.missing(version, image_ids) if self._store.has((version, i))]
        new = self._desk.request(version, image_ids)
        self._desk.found(version, [image_id for image_id in new if image_id in set(stored)])

    async def _wait(self, attempt: int, incarnation: str, keys: list[Key], wait_s: float) -> bool:
        """Wait until all labels are there (True), or until there is something to tell the caller (False)."""
        if not self._admits(attempt) or incarnation != self._incarnation:
            return False
        by_version: dict[int, list[str]] = {}
        for version, image_id in keys:
            by_version.setdefault(version, []).append(image_id)
        for version, image_ids in by_version.items():
            self._want(version, image_ids)
        self._dispatch()
        deadline = time.monotonic() + wait_s
        while attempt == self._attempt and self._error is None:
            if not any(self._desk.missing(v, ids) for v, ids in by_version.items()):
                return True
            left = deadline - time.monotonic()
            if left <= 0 or any(self._desk.failures(v, ids) for v, ids in by_version.items()):
                return False
            changed = self._changed
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                return False
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

    def _dispatch(self) -> None:
        for teacher, call in self._crew.distribute(self._desk.assign):
            keys = teacher.calls[call]
            self._spawn(self._ask(teacher, call, keys, *self._weights[keys[0][0]]))

    async def _ask(self, teacher: Teacher, call: int, keys: list[Key], digest: str, weights: ObjectRef) -> None:
        """Wait for one call's answer and enter it."""
        version, attempt = keys[0][0], self._attempt
        try:
            answer = await self._crew.ask(teacher, call, digest, weights)
        except ActorLostError as lost:
            self._bury(teacher, str(lost))
        except WeightsLostError:
            if self._weights.get(version, ("", None))[0] == digest:
                del self._weights[version]
                self._desk.unpublish(version)
            self._desk.give_back(keys)
        except TeacherError:
            if attempt == self._attempt:
                raise
        else:
            if self._weights.get(version, ("", None))[0] == digest:  # else it was asked for before a rewind
                self._enter(teacher, version, answer)
        self._dispatch()
        self._wake()

    def _enter(self, teacher: Teacher, version: int, answer: Answer) -> None:
        for image_id, reason in answer.failures.items():
            self._desk.fail(teacher.name, (version, image_id), reason)
        if answer.table is not None:
            self._store.append(answer.table)
            for image_id in answer.table["image_id"].to_pylist():
                self._made += self._desk.answer(teacher.name, (version, image_id))

    async def _start(self, teacher: Teacher) -> None:
        """Wait until a new teacher can work."""
        try:
            await self._crew.start(teacher)
        except TeacherError:
            self._crew.dismiss(teacher)
            raise
        except ActorLostError as lost:
            self._deaths_at_start += 1
            if self._deaths_at_start >= self._timing.deaths_at_start:
                self._crew.dismiss(teacher)
                raise TeacherError(f"{self._deaths_at_start} teacher actors in a row died at start: {lost}") from None
            self._bury(teacher, str(lost))
        else:
            self._deaths_at_start = 0
            self._dispatch()

    def _bury(self, teacher: Teacher, reason: str) -> None:
        """Give a dead teacher's work to the others and hire another one."""
        if not self._crew.dismiss(teacher):
            return  # it had several calls; the first of them told us
        for key in next(iter(teacher.calls.values()), []):  # what it was working on when it died
            self._blame[key] += 1
            if self._blame[key] >= self._timing.deaths_per_key:
                why = f"{self._blame[key]} teacher actors died while at work on it or a neighbour; the last: {reason}"
                self._desk.fail(teacher.name, key, why)
        self._desk.actor_died(teacher.name)
        self._resize(self._size)

    def _resize(self, size: int) -> None:
        self._size = max(size, 0)
        while len(self._crew) < self._size:
            self._spawn(self._start(self._crew.hire()))
        while len(self._crew) > self._size:
            teacher = max(self._crew.members(), key=lambda member: (not member.has_started, member.idle_for_s))
            self._crew.dismiss(teacher)
            self._desk.actor_died(teacher.name)
        self._dispatch()

    async def _watch(self) -> None:
        """Look at the queue for as long as the broker lives; let the pool grow and shrink."""
        low, high = self._config.min_actors, self._config.max_actors
        while True:
            await asyncio.sleep(self._timing.tick_s)
            if low is None or high is None or self._size == 0:
                continue
            members, now = self._crew.members(), time.monotonic()
            is_late = self._desk.assignable() > 0  # what a teacher could take has been dispatched
            self._late_since = (self._late_since or now) if is_late else None
            size = next_size(
                self._size,
                low,
                high,
                late_for_s=now - self._late_since if self._late_since else 0.0,
                idle_for_s=max(member.idle_for_s for member in members),
                is_starting=not all(member.has_started for member in members),
                timing=self._timing,
            )
            if size != self._size:
                self._late_since = None
                self._resize(size)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run in the background; an error there becomes everyone's error."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            is_plain = isinstance(error, TeacherError | LabelConflictError)
            self._error = str(error) if is_plain else "".join(traceback.format_exception(error))
            self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _stats(self) -> dict[str, float]:
        counts = asdict(self._desk.counts())
        members = self._crew.members()
        return {
            "pool/wanted": float(counts["wanted"]),
            "pool/assigned": float(counts["assigned"]),
            "pool/ready": float(counts["ready"]),
            "pool/actors": float(sum(member.has_started for member in members)),
            "pool/actors_starting": float(sum(not member.has_started for member in members)),
            "labels/made": float(self._made),
            "labels/relabelled": float(counts["returned"]),
            "labels/ignored": float(counts["ignored"]),
        }
