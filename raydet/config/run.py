"""RunConfig: everything one training run depends on, whatever it trains."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, create_model, model_validator

from raydet.config.base import DataSection, ModelSection, NonNegativeInt, PositiveFloat, PositiveInt, Section
from raydet.config.method import MethodSection
from raydet.config.optim import OptimConfig
from raydet.config.paths import PathText


class RunSection(Section):
    """Where the run lives."""

    dir: PathText
    """Run folder. On a cluster: a path that every node sees. This and all other paths may hold `~`, `${NAME}` and
    `${NAME:-default}`."""
    fork_from: PathText | None = None
    """Checkpoint folder to start from: weights, optimiser and step are taken over, the method may differ."""
    stop_at: PositiveInt | None = None
    """Stop with a checkpoint after so many optimiser steps, to be resumed or forked later; default: `optim.steps`."""


class LabelsConfig(Section):
    """How pseudo-labels are made and kept."""

    source: Literal["inline", "pool"] = "inline"
    """`inline`: each training process runs the teacher itself. `pool`: separate teacher actors (needs Ray)."""
    lookahead: NonNegativeInt = 0
    """Ask for labels so many steps ahead (A). 0 is the papers' algorithm."""
    publish_every: PositiveInt = 1
    """Publish a new teacher every so many steps (P). Label age is at most A + P - 1 steps."""
    forward_images: PositiveInt | None = None
    """Images per teacher forward; default: 8 on a GPU, 1 on a CPU, where a label then does not depend on its neighbours
    in the batch, bit for bit."""
    timeout_s: PositiveFloat = 600.0
    """Longest wait for labels before the run stops and names what is missing."""
    keep_versions: PositiveInt | None = None
    """Keep stored labels of only so many newest teacher versions; default: all (the report reads them)."""


class PoolConfig(Section):
    """The teacher actors."""

    actors: PositiveInt = 1
    """Teacher actors at the start."""
    min_actors: PositiveInt | None = None
    """With `max_actors`: the pool shrinks to this while the queue is empty."""
    max_actors: PositiveInt | None = None
    """With `min_actors`: the pool grows to this while labels are late."""
    cpus_per_actor: Annotated[float, Field(ge=0)] = 1.0
    """Ray CPUs of one teacher; also its torch threads (at least 1)."""
    gpus_per_actor: Annotated[float, Field(ge=0)] = 0.0
    """Ray GPUs of one teacher; fractions share a GPU."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Custom Ray resources, e.g. {teacher: 1}, to place teachers on other nodes than the trainers."""
    images_per_call: PositiveInt = 4
    """Images per request to one actor."""
    calls_in_flight: PositiveInt = 2
    """Requests queued at one actor; more hide latency, fewer spread the work better."""

    @model_validator(mode="after")
    def _range(self) -> PoolConfig:
        low, high = self.min_actors, self.max_actors
        if (low is None) != (high is None):
            raise ValueError("min_actors and max_actors go together: give both or neither")
        if low is not None and high is not None and not low <= self.actors <= high:
            raise ValueError(f"actors={self.actors} must lie in min_actors..max_actors = {low}..{high}")
        return self


class ClusterConfig(Section):
    """Processes and nodes."""

    backend: Literal["process", "ray"] = "process"
    """`process`: one process without Ray (for pdb). `ray`: Ray Train workers."""
    address: str | None = None
    """Ray address; default: RAY_ADDRESS where set (inside a job), else a local Ray of this run's own."""
    workers: PositiveInt = 1
    """Ray Train workers (ranks)."""
    min_workers: PositiveInt | None = None
    """With it the worker range is elastic: min_workers..workers."""
    cpus_per_worker: PositiveFloat = 1.0
    """Ray CPUs of one worker; also its torch threads (at least 1)."""
    gpus_per_worker: Literal[0, 1] = 0
    """One GPU per rank, or none."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Custom Ray resources of one worker, e.g. {trainer: 1}, to keep workers and teachers on nodes of their own. Needed
    with an elastic range beside a pool: Ray Train counts what nodes have, not what teachers have taken of it."""
    local_cpus: PositiveInt | None = None
    """Logical CPUs of the run's own local Ray; default: what workers and teachers ask for, at least the machine's."""
    max_failures: int = Field(default=3, ge=-1)
    """How often a failed worker group is restarted from its last checkpoint; -1: without limit."""
    start_timeout_s: PositiveFloat = 60.0
    """Longest wait for the places of a worker group. An elastic group that has lost a node tries its old size for up to
    20 s more, and each try takes this long; too short, and a group never starts on a busy cluster."""
    resize_every_s: PositiveFloat = 60.0
    """How often an elastic group looks whether its size could change; a change restarts it from its checkpoint."""
    dashboard: bool = False
    """Start Ray's dashboard with the run's own local Ray."""

    @model_validator(mode="after")
    def _elastic(self) -> ClusterConfig:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers={self.min_workers} exceeds workers={self.workers}")
        if self.backend == "process" and self.workers != 1:
            raise ValueError(f"backend process has exactly 1 worker, got workers={self.workers}; set backend: ray")
        return self


class CheckpointConfig(Section):
    """What is kept for resuming."""

    every: PositiveInt = 1000
    """A checkpoint at every so many steps counted from the end of the burn-in, at the burn-in's end and at the end."""
    keep: PositiveInt = 2
    """How many of the newest are kept; the burn-in's end and the best one are kept as well."""


class EvalConfig(Section):
    """Evaluation while training."""

    every: PositiveInt = 5000
    """Evaluate every so many steps, at the burn-in's end and at the end."""
    max_images: PositiveInt | None = None
    """Evaluate on so many images only, evenly spaced over the set (all by default)."""


class LogConfig(Section):
    """What is written while training."""

    every: PositiveInt = 20
    """Write metrics every so many steps."""
    plain_interval_s: PositiveFloat = 10.0
    """Seconds between progress lines where the output is not a terminal."""
    tensorboard: bool = True
    """Write TensorBoard events too."""
    workers: bool = False
    """Show the Ray workers' own output on the terminal; it is always in Ray's session folder."""


class RunConfig(Section):
    """One training run. Each family of methods narrows the sections to what it uses, with defaults that suit it;
    `with_method` narrows `method` to the settings of one."""

    family: ClassVar[str]
    """The folder in `raydet/families/` that knows the rest."""
    trains: ClassVar[str]
    """What comes out of a run, in a word."""
    figures: ClassVar[tuple[str, ...]]
    """Figures of an evaluation, shares in [0, 1] or None: the first one decides, the first three are the headline."""
    told_besides: ClassVar[tuple[str, ...]] = ()
    """Those of them that belong to the headline where there are such, and only there."""
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    """Those of them of which the lowest is best."""
    spoken: ClassVar[Mapping[str, str]] = {}
    """What reports call figures, losses and stages, where that is not their name."""

    run: RunSection
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] = 0
    """Seeds every draw of the run; the labelled split has its own (`data.split_seed`)."""
    data: DataSection[Any]
    model: ModelSection
    method: MethodSection
    optim: OptimConfig = OptimConfig()
    labels: LabelsConfig = LabelsConfig()
    pool: PoolConfig = PoolConfig()
    cluster: ClusterConfig = ClusterConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    log: LogConfig = LogConfig()

    @classmethod
    def with_method(cls, method: type[MethodSection]) -> type[Self]:
        """Return the class of runs by one method, always the same one."""
        return _with_method(cls, method)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as text: a class made by `with_method` has no place that pickle could name."""
        family = next(cls for cls in type(self).__mro__ if RunConfig in cls.__bases__)
        return _rebuilt, (family, type(self.method), self.model_dump_json())

    @property
    def length(self) -> int:
        """Optimiser steps of the whole run."""
        return self.method.length(self.optim)

    @property
    def last_step(self) -> int:
        """Optimiser steps completed when training ends: the whole run, or `run.stop_at`."""
        return min(self.length, self.run.stop_at or self.length)

    @property
    def to_train_on(self) -> str:
        """What would make the run longer, as the end of a sentence; nothing where its end is part of the method."""
        if self.last_step < self.length:
            return "; raise run.stop_at to train on"
        return "" if self.method.fixed_length else "; raise optim.steps to train on"

    @property
    def uses_labels(self) -> bool:
        """Whether the method trains on pseudo-labels."""
        return self.method.uses_labels

    def contradictions(self) -> list[str]:
        """Return what cannot be meant, each with the keys and what to change."""
        return [*_contradictions(self), *self.method.contradictions(self)]

    def complete(self) -> None:
        """Set what was left out of a section and follows from another, so that the resolved configuration holds it."""
        return

    @model_validator(mode="after")
    def _no_contradictions(self) -> RunConfig:
        self.complete()
        for problem in self.contradictions():
            raise ValueError(problem)
        return self


AnyRun = TypeVar("AnyRun", bound=RunConfig)


def _rebuilt(family: type[RunConfig], method: type[MethodSection], text: str) -> RunConfig:
    return family.with_method(method).model_validate_json(text)


@cache
def _with_method(run: type[AnyRun], method: type[MethodSection]) -> type[AnyRun]:
    return create_model(run.__name__, __base__=run, __module__=run.__module__, method=(method, ...))


def _contradictions(config: RunConfig) -> list[str]:
    found = []
    labels, optim, cluster = config.labels, config.optim, config.cluster
    if labels.source == "pool" and labels.lookahead == 0:
        found.append(
            "labels.source=pool with labels.lookahead=0: every step would wait for the pool; "
            "set labels.lookahead >= 1 or labels.source=inline"
        )
    if labels.source == "pool" and cluster.backend == "process":
        found.append("labels.source=pool needs Ray; set cluster.backend=ray or labels.source=inline")
    if config.uses_labels and not config.data.leaves_some_unlabeled:
        found.append(
            f"method.name={config.method.name} needs unlabelled images: set data.unlabeled, or one of "
            f"{', '.join(f'data.{key}' for key in config.data.drawn_by)} to leave some of data.labeled unlabelled"
        )
    smallest = optim.labeled_batch if not config.uses_labels else min(optim.labeled_batch, optim.unlabeled_batch)
    if cluster.workers * optim.accumulate > smallest:
        found.append(
            f"cluster.workers={cluster.workers} x optim.accumulate={optim.accumulate} needs batches of at least that "
            f"many images; optim.labeled_batch={optim.labeled_batch}, optim.unlabeled_batch={optim.unlabeled_batch}"
        )
    return found
