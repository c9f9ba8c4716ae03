"""The actors of a job. The only part of it that knows Ray.

Each actor has at most two calls, so that the next images are decoded while the task is at work on others.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError

from raydet.cluster.actors import ActorGroup, Foreground, Member, why_lost
from raydet.cluster.connect import connected
from raydet.cluster.nodes import alive_nodes, ask_every_node
from raydet.cluster.process import set_up_process
from raydet.config.run import ClusterConfig
from raydet.errors import ConfigError, DataError, RunError
from raydet.image_jobs.mount_check import unseen
from raydet.image_jobs.progress import Progress
from raydet.image_jobs.shards import Chunk
from raydet.image_jobs.work import Piece, WorkList
from raydet.image_jobs.worker import Job, Worker

CALLS_IN_FLIGHT = 2
LOSSES_IN_A_ROW = 12  # so many actors lost without one answer between them: it is not the images
_WAIT_S = 1.0

Finished = Callable[[Chunk, pa.Table], None]


class WorkerActor:
    """One process that works. Two calls may be inside at once: one is answered, the images of the other are decoded."""

    def start(self, job: Job) -> str:
        """Begin the task and say where this process is. Raises DataError where the images are not seen there."""
        if problem := unseen(job.samples):  # a node that joined after all were asked
            raise DataError(f"{socket.gethostname()} does not see the images that others see: {problem}")
        set_up_process(job.threads)
        self._worker = Worker(job)
        return f"pid {os.getpid()} on {socket.gethostname()}"

    def label(self, names: list[str]) -> pa.Table:
        """Return one row per image."""
        return self._worker.rows(names)


@dataclass(frozen=True, slots=True)
class Share:
    """What actors there are to be."""

    actors: int
    cpus: float
    gpus: float
    address: str | None


def work_with_actors(job: Job, share: Share, work: WorkList, finished: Finished, progress: Progress, noun: str) -> None:
    """Work off the list, by `NOUN actors`, on the Ray there is or a local one.

    Raises ConfigError where no node can hold an actor or one does not see the images, RunError where actors cannot be
    set up or are lost in a row.
    """
    with connected(ClusterConfig(address=share.address), cpus=share.actors * share.cpus):
        _check_fits(share)
        _check_seen(job)
        workers = _Workers(job, share, work, finished, progress, noun)
        try:
            workers.work_off()
        finally:
            workers.close()


class _Workers(ActorGroup[Piece]):
    """Works off a work list. An actor that dies, or whose task fails, is replaced; its pieces are wanted again."""

    calls_in_flight = CALLS_IN_FLIGHT
    replaces_failing = True

    def __init__(
        self, job: Job, share: Share, work: WorkList, finished: Finished, progress: Progress, noun: str
    ) -> None:
        self.noun = noun
        options: dict[str, Any] = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_restarts": 0}
        options |= {"max_concurrency": CALLS_IN_FLIGHT, "scheduling_strategy": "SPREAD"}
        self._answers = Foreground()
        create = ray.remote(WorkerActor).options(**options).remote
        super().__init__(share.actors, self._answers.when, create, start=[ray.put(job)])
        self._work, self._finished, self._progress = work, finished, progress
        self._losses = 0

    def work_off(self) -> None:
        """Return when the work list is empty and everything is finished."""
        self.fill()
        while True:
            members = self.members()
            if any(member.has_started for member in members) and not any(member.calls for member in members):
                return  # there is someone to take work, and there was none
            self._progress.starting = sum(not member.has_started for member in members)
            self._answers.wait(_WAIT_S)

    def _next_work(self, member: Member[Piece]) -> Piece | None:
        if any(piece.is_alone for piece in member.calls.values()):
            return None  # nothing runs beside an image that is tried alone
        return self._work.next(is_idle=not member.calls)

    def _arguments(self, work: Piece) -> list[list[str]]:
        return [list(work.names)]

    def _started(self, member: Member[Piece]) -> None:
        self._progress.started(member.name, member.place)

    def _answered(self, member: Member[Piece], work: Piece, answer: pa.Table) -> None:
        self._losses = 0
        self._progress.answered(member.name, answer)
        self._keep(self._work.done(work, answer))

    def _lost(self, member: Member[Piece], error: RayError | None) -> None:
        assert error is not None, "there is never one too many"
        reason = _last_line(error)
        self._losses += 1
        if self._losses >= LOSSES_IN_A_ROW:
            raise RunError(f"{self._losses} {self.noun} actors in a row were lost; the last: {reason}")
        self._progress.say(f"{member.name} was lost ({reason}); its images go to another one")
        for piece in member.calls.values():
            self._keep(self._work.lost(piece, reason))

    def _keep(self, complete: tuple[Chunk, pa.Table] | None) -> None:
        if complete is not None:
            self._finished(*complete)


def _check_fits(share: Share) -> None:
    """Raise ConfigError where no node can ever hold one actor; those that find no room wait, the others work."""
    each = {"CPU": share.cpus, "GPU": share.gpus}
    nodes = [node["Resources"] for node in alive_nodes()]
    if not any(all(node.get(name, 0.0) >= amount for name, amount in each.items()) for node in nodes):
        has = "; ".join(", ".join(f"{node.get(name, 0.0):g} {name}" for name in each) for node in nodes)
        raise ConfigError(
            f"an actor needs {share.cpus:g} CPU and {share.gpus:g} GPU on one node; the nodes have: {has}. Lower "
            f"--cpus-per-actor or --gpus-per-actor, or add a node"
        )


def _check_seen(job: Job) -> None:
    """Raise ConfigError, naming nodes, unless every node sees the images; the task travels with the actors."""
    if not job.samples or len(alive_nodes()) == 1:
        return
    answers = ask_every_node(unseen, job.samples)
    problems = [f"{answer.node}: {text}" for answer in answers if (text := answer.error or answer.value)]
    if problems:
        raise ConfigError(
            f"the images in {job.store} must be seen by every node under the same path (NFS, EFS, FSx, Filestore, a "
            "shared volume); mount the folder there, or give a URI such as s3://bucket/folder:\n  "
            + "\n  ".join(problems)
        )


def _last_line(error: RayError) -> str:
    if isinstance(error, OutOfMemoryError):
        return why_lost(error, to_lower="--actors")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, RayActorError):
        return lines[0] if lines else type(error).__name__
    return lines[-1] if lines else type(error).__name__
