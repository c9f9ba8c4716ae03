"""PoolSource: a training process's side of the teacher pool.

It keeps what a restarted broker has lost: the weights of every version that is not retired, on every rank (rank 0 may
be waiting for another rank in a reduction while that rank waits for labels), and which labels were asked for and not
taken. Requests are sent without waiting for an answer; whatever became of them is settled in `take` and `flush`, which
say again what they need. When the labels of a step are there, those of the next request are called for at once, so that
with a lookahead the answer travels while the step trains.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError

from raydet.arithmetic import Arithmetic
from raydet.cluster.actors import GONE
from raydet.errors import LabelTimeoutError
from raydet.labels.convert import from_table
from raydet.labels.desk import Key
from raydet.labels.source import check_labels
from raydet.pool.messages import Reply, TeacherError
from raydet.records import PseudoLabel, TeacherRef, Weights
from raydet.text import plural, some
from raydet.vision.weights import Arrays, to_arrays

_POLL_S = 5.0  # a call waits so long at the broker before it says what is still missing
_RETRY_S = 0.2  # between calls to a broker that is restarting
_GONE_S = 30.0  # a broker that Ray calls dead for so long does not come back
_MOST_NAMED = 20  # images in a message

_Batch = tuple[int, list[str]]  # a teacher's version, and images without repetition


class PoolSource:
    """A `LabelSource` that lets the pool label. One per training process."""

    def __init__(
        self,
        broker: ActorHandle,
        *,
        rank: int,
        attempt: int,
        begun: Arithmetic | None = None,
        timeout_s: float = 600.0,
        poll_s: float = _POLL_S,
    ) -> None:
        """`attempt`: equal on all ranks of a worker group and larger than that of every earlier group of the run;
        `begun`: what these compute in."""
        self._broker, self._begun = broker, begun
        self._rank = rank
        self._attempt = attempt
        self._timeout_s = timeout_s
        self._poll_s = min(poll_s, timeout_s)
        self._incarnation = ""
        self._published: dict[int, tuple[TeacherRef, Arrays]] = {}
        self._outstanding: Counter[Key] = Counter()  # asked for more often than taken
        self._coming: deque[_Batch] = deque()  # asked for and not taken, in order
        self._called: tuple[_Batch, ObjectRef] | None = None  # a `take` of the broker that nobody has looked at yet
        self._sent: list[ObjectRef] = []
        self._stats: dict[str, float] = {}
        self._wait_s = 0.0
        self._repairs = 0

    def rewind(self, version: int) -> None:
        """Begin the attempt; waits for the broker. See `LabelSource`."""
        deadline = time.monotonic() + self._timeout_s
        reply = self._ask(lambda _: self._broker.rewind.remote(self._attempt, version), deadline, "to rewind")
        self._incarnation = reply.incarnation
        self._published = {v: known for v, known in self._published.items() if v <= version}
        self._forget()

    def publish(self, ref: TeacherRef, weights: Weights) -> None:
        """Keep the weights until the version is retired; rank 0 sends them."""
        self._published[ref.version] = (ref, to_arrays(weights))
        if self._rank == 0:
            self._send(ref.version)

    def request(self, image_ids: Sequence[str], version: int) -> None:
        """Ask for labels; returns at once."""
        unique = list(dict.fromkeys(image_ids))
        self._outstanding.update((version, image_id) for image_id in unique)
        if unique:
            self._coming.append((version, unique))
        self._broker.request.remote(self._attempt, version, list(image_ids))

    def take(self, image_ids: Sequence[str], version: int) -> list[PseudoLabel]:
        """Wait for labels; see `LabelSource`. Raises TeacherError where the annotator failed on one of them,
        and what the broker as a whole failed with, e.g. StorageError."""
        if not image_ids:
            return []
        unique = list(dict.fromkeys(image_ids))
        batch = (version, unique)
        reply = self._settle(lambda wait_s: self._call(batch, wait_s), is_done=lambda reply: reply.table is not None)
        if batch in self._coming:
            self._coming.remove(batch)
        if self._coming:
            self._called = (self._coming[0], self._call(self._coming[0], self._poll_s))
        labels = from_table(reply.table)
        known = self._published.get(version)
        check_labels(labels, unique, version, known[0].digest if known else None)
        self._outstanding.subtract((version, image_id) for image_id in unique)
        self._outstanding = +self._outstanding
        by_id = dict(zip(unique, labels, strict=True))
        return [by_id[image_id] for image_id in image_ids]

    def retire(self, version: int) -> None:
        """Forget older weights here and at the broker."""
        self._published = {v: known for v, known in self._published.items() if v >= version}
        self._outstanding = Counter({key: n for key, n in self._outstanding.items() if key[0] >= version})
        self._coming = deque(batch for batch in self._coming if batch[0] >= version)
        if self._rank == 0:
            self._broker.retire.remote(self._attempt, version)

    def flush(self) -> None:
        """Wait until all that was asked for and not taken yet exists, and everything is on disk."""
        self._settle(
            lambda wait_s: self._broker.flush.remote(self._attempt, self._incarnation, self._by_version(), wait_s),
            is_done=lambda reply: not reply.missing,
        )

    def stats(self) -> dict[str, float]:
        """Return the broker's figures as of the last `take`, and this process's own; does not wait."""
        return {**self._stats, "labels/take_wait_s": self._wait_s, "pool/repairs": float(self._repairs)}

    def close(self) -> None:
        """Let go of the weights; the broker goes on until the driver ends it."""
        self._published.clear()
        self._forget()

    def _forget(self) -> None:
        self._outstanding.clear()
        self._coming.clear()
        self._called = None

    def _call(self, batch: _Batch, wait_s: float) -> ObjectRef:
        """Return the broker's answer to come: that of the call that was made ahead, or of a new one."""
        called, self._called = self._called, None
        if called is not None and called[0] == batch:
            return called[1]
        version, image_ids = batch
        return self._broker.take.remote(self._attempt, self._incarnation, version, image_ids, wait_s)

    def _settle(self, call: Callable[[float], ObjectRef], is_done: Callable[[Reply], bool]) -> Reply:
        """Wait until the broker has what we need; help it to what it lacks."""
        began = time.monotonic()
        deadline = began + self._timeout_s
        self._raise_send_errors()
        while True:
            reply = self._ask(call, deadline, f"for {some(list(self._outstanding), _MOST_NAMED)}")
            if reply.incarnation != self._incarnation:
                self._repair(reply.incarnation)
            elif is_done(reply):
                self._stats = reply.stats
                self._wait_s += time.monotonic() - began
                return reply
            elif time.monotonic() >= deadline:
                raise LabelTimeoutError(self._timeout_text(reply))
            else:
                for version in reply.unpublished:
                    if version in self._published:
                        self._send(version)
            self._raise_send_errors()

    def _ask(self, call: Callable[[float], ObjectRef], deadline: float, purpose: str) -> Reply:
        """Wait for a broker that may be restarting to answer. Raises what the reply says is wrong."""
        dead_since: float | None = None
        while True:
            wait_s = max(0.0, min(self._poll_s, deadline - time.monotonic()))
            try:
                reply = ray.get(call(wait_s), timeout=wait_s + self._poll_s)
                break
            except (*GONE, GetTimeoutError) as error:
                now = time.monotonic()
                dead_since = (dead_since or now) if isinstance(error, ActorDiedError) else None
                if now >= deadline or (dead_since is not None and now - dead_since > _GONE_S):
                    raise LabelTimeoutError(f"the label broker does not answer, asked {purpose}: {error}") from error
                time.sleep(_RETRY_S)
            except RayTaskError as error:
                raise error.cause from error  # what the broker raised, as if it had been raised here
        assert isinstance(reply, Reply)
        if reply.is_superseded:
            raise RuntimeError(f"attempt {self._attempt} of this run has been replaced by a newer worker group")
        if reply.error is not None:
            raise reply.error  # as itself: a full disk is not the teacher's fault
        if reply.failures:
            reasons = "\n".join(f"{image_id}: {reason}" for image_id, reason in list(reply.failures.items())[:3])
            raise TeacherError(f"the teacher failed on images {some(list(reply.failures), _MOST_NAMED)}:\n{reasons}")
        return reply

    def _repair(self, incarnation: str) -> None:
        """The broker was restarted: give it the weights again, and ask again for everything."""
        self._incarnation = incarnation
        self._repairs += 1
        for version in self._published:
            self._send(version)
        for version, image_ids in self._by_version().items():
            self._broker.request.remote(self._attempt, version, image_ids)

    def _send(self, version: int) -> None:
        ref, weights = self._published[version]
        # As an argument: an object that this process put would be gone with this process.
        self._sent.append(self._broker.publish.remote(self._attempt, ref.version, ref.digest, weights, self._begun))

    def _raise_send_errors(self) -> None:
        """Raise what publishing raised at the broker; a broker that died meanwhile is no error."""
        if not self._sent:
            return
        done, self._sent = ray.wait(self._sent, num_returns=len(self._sent), timeout=0)
        for sent in done:
            try:
                ray.get(sent)
            except GONE:
                continue
            except RayTaskError as error:
                raise error.cause from error

    def _by_version(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for version, image_id in self._outstanding:
            found.setdefault(version, []).append(image_id)
        return found

    def _timeout_text(self, reply: Reply) -> str:
        unpublished = sorted({version for version, _ in reply.missing} & set(reply.unpublished))
        if unpublished:
            why = f"The weights of version {', '.join(map(str, unpublished))} are not there (never published, or lost)."
        elif reply.stats.get("pool/actors", 0) == 0:
            why = "No teacher actor has started: does the cluster have the CPUs, GPUs and resources of `pool`?"
        else:
            actors = plural(round(reply.stats["pool/actors"]), "teacher actor is", "teacher actors are")
            why = f"{actors} at work: add some, or raise labels.timeout_s."
        return f"no labels within labels.timeout_s={self._timeout_s:g} s for {some(reply.missing, _MOST_NAMED)}. {why}"
