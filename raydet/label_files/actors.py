"""The labelling actors. The only part of labelling that knows Ray.

Plain actors and a bounded queue: each has at most two calls, so that the next images are decoded while the model is at
work. An actor that dies, or whose model fails, is replaced, and its pieces go back to the work list.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa
import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError

from raydet.cluster.allocator import keep_freed_memory
from raydet.cluster.connect import connected
from raydet.cluster.nodes import alive_nodes, ask_every_node
from raydet.config.run import ClusterConfig
from raydet.errors import ConfigError, DataError, RunError
from raydet.label_files.labeller import Job, Labeller
from raydet.label_files.mount_check import unseen
from raydet.label_files.progress import Progress
from raydet.label_files.shards import Chunk
from raydet.label_files.work import Piece, WorkList

CALLS_IN_FLIGHT = 2
LOSSES_IN_A_ROW = 12  # so many actors lost without one answer between them: it is not the images
_WAIT_S = 1.0

Finished = Callable[[Chunk, pa.Table], None]


class LabelActor:
    """One process that labels. Two calls may be inside at once: one forward runs, the other's images are decoded."""

    def start(self, job: Job) -> str:
        """Build the model and say where this process is. Raises DataError where the images are not seen there."""
        if problem := unseen(job.samples):  # a node that joined after all were asked
            raise DataError(f"{socket.gethostname()} does not see the images that others see: {problem}")
        keep_freed_memory()
        self._labeller = Labeller(job)
        return f"pid {os.getpid()} on {socket.gethostname()}"

    def label(self, names: list[str]) -> pa.Table:
        """Return one row per image."""
        return self._labeller.label(names)


@dataclass(slots=True, eq=False)
class _Actor:
    name: str
    handle: ActorHandle
    has_started: bool = False
    calls: dict[ObjectRef, Piece] = field(default_factory=dict)

    @property
    def may_take(self) -> bool:
        """Whether another call may be sent; nothing runs beside an image that is tried alone."""
        return self.has_started and not any(piece.is_alone for piece in self.calls.values())


@dataclass(frozen=True, slots=True)
class Share:
    """What actors there are to be."""

    actors: int
    cpus: float
    gpus: float
    address: str | None


def label_with_actors(job: Job, share: Share, work: WorkList, finished: Finished, progress: Progress) -> None:
    """Label everything the work list has, on the Ray there is or a local one.

    Raises ConfigError where no node can hold an actor or one does not see the images, RunError where actors cannot be
    set up or are lost in a row.
    """
    with connected(ClusterConfig(address=share.address), cpus=share.actors * share.cpus):
        _check_fits(share)
        _check_seen(job)
        crew = _Crew(job, share, work, finished, progress)
        try:
            crew.work()
        finally:
            crew.dismiss_all()


class _Crew:
    def __init__(self, job: Job, share: Share, work: WorkList, finished: Finished, progress: Progress) -> None:
        self._job, self._share, self._work = ray.put(job), share, work
        self._finished, self._progress = finished, progress
        self._actors: list[_Actor] = []
        self._starting: dict[ObjectRef, _Actor] = {}
        self._hired = self._losses = 0

    def work(self) -> None:
        """Hire, hand out, take answers, until the work list is empty."""
        while True:
            while len(self._actors) < self._share.actors:
                self._hire()
            self._hand_out()
            calls = [call for actor in self._actors for call in actor.calls]
            has_started = any(actor.has_started for actor in self._actors)
            if not calls and has_started:
                return  # there is someone to take work, and there was none
            self._progress.starting = len(self._starting)
            ready, _ = ray.wait([*calls, *self._starting], timeout=_WAIT_S)
            for call in ready:
                self._take(call)

    def dismiss_all(self) -> None:
        """End all actors."""
        for actor in self._actors:
            ray.kill(actor.handle)

    def _hire(self) -> None:
        share = self._share
        handle = (
            ray.remote(LabelActor)
            .options(
                num_cpus=share.cpus,
                num_gpus=share.gpus,
                max_restarts=0,
                max_concurrency=CALLS_IN_FLIGHT,
                scheduling_strategy="SPREAD",
            )
            .remote()
        )
        actor = _Actor(f"actor-{self._hired}", handle)
        self._hired += 1
        self._actors.append(actor)
        self._starting[handle.start.remote(self._job)] = actor

    def _hand_out(self) -> None:
        """Fill free places, one call each first."""
        for place in range(CALLS_IN_FLIGHT):
            for actor in self._actors:
                if actor.may_take and len(actor.calls) <= place:
                    piece = self._work.next(is_idle=not actor.calls)
                    if piece is not None:
                        actor.calls[actor.handle.label.remote(list(piece.names))] = piece

    def _take(self, call: ObjectRef) -> None:
        if call in self._starting:
            self._take_start(call)
            return
        actor = next((each for each in self._actors if call in each.calls), None)
        if actor is None:
            return  # it was lost with another call a moment ago
        try:
            table = ray.get(call)
        except RayError as error:
            self._lost(actor, error)
            return
        self._losses = 0
        piece = actor.calls.pop(call)
        self._progress.answered(actor.name, table)
        self._keep(self._work.done(piece, table))

    def _take_start(self, call: ObjectRef) -> None:
        actor = self._starting.pop(call)
        try:
            self._progress.started(actor.name, ray.get(call))
            actor.has_started = True
        except RayTaskError as error:
            raise RunError(f"a labelling actor could not be set up: {error}") from None
        except RayActorError as error:
            self._lost(actor, error)

    def _lost(self, actor: _Actor, error: RayError) -> None:
        """Give an actor up, dead or with a model that fails; its pieces are wanted again."""
        reason = _last_line(error)
        self._losses += 1
        if self._losses >= LOSSES_IN_A_ROW:
            raise RunError(f"{self._losses} labelling actors in a row were lost; the last: {reason}")
        self._progress.say(f"{actor.name} was lost ({reason}); its images go to another one")
        self._actors.remove(actor)
        ray.kill(actor.handle)
        for piece in actor.calls.values():
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
    """Raise ConfigError, naming nodes, unless every node sees the images; the model travels with the actors."""
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
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, RayActorError):
        return lines[0] if lines else type(error).__name__
    return lines[-1] if lines else type(error).__name__
