"""RunConfig: everything one training run depends on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydet.config.base import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Section, Weight
from raydet.config.data import DataConfig
from raydet.config.methods import MethodConfig, SupervisedConfig
from raydet.config.model import ModelConfig


class RunSection(Section):
    """Where the run lives."""

    dir: str
    """Run folder. On a cluster: a path that every node sees."""
    fork_from: str | None = None
    """Checkpoint folder to start from: weights, optimiser and step are taken over, the method may differ."""
    stop_at: PositiveInt | None = None
    """Stop with a checkpoint after so many optimiser steps, to be resumed or forked later; default: `optim.steps`."""


class OptimConfig(Section):
    """Optimiser and batch. Batch sizes are GLOBAL, whatever the number of workers."""

    name: Literal["sgd", "adamw"] = "sgd"
    """Which optimiser."""
    lr: PositiveFloat = 0.0075
    """Learning rate for `reference_batch` images; see `lr_scaling`."""
    lr_scaling: Literal["none", "linear"] = "none"
    """`linear` multiplies lr by (labeled_batch + unlabeled_batch) / reference_batch; the result is printed."""
    reference_batch: PositiveInt = 24
    """Images per step that `lr` was chosen for (labelled + unlabelled)."""
    momentum: Fraction = 0.9
    """SGD momentum."""
    weight_decay: Weight = 1e-4
    """Weight decay; biases and norm layers are exempt."""
    steps: PositiveInt = 180_000
    """Optimiser steps in all, burn-in included."""
    warmup_steps: NonNegativeInt = 1000
    """Linear warm-up from lr / 1000."""
    decay_at: tuple[PositiveInt, ...] = ()
    """Steps at which the learning rate falls to a tenth."""
    labeled_batch: PositiveInt = 12
    """Labelled images per step, over all workers. Each enters the student twice: strong and weak view."""
    unlabeled_batch: PositiveInt = 12
    """Unlabelled images per step, over all workers."""
    clip_norm: PositiveFloat | None = None
    """Clip the gradient norm to this."""
    accumulate: PositiveInt = 1
    """Split each step into so many passes to save memory; the optimiser sees the same gradient."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 on GPUs and CPUs with hardware for it, fp32 elsewhere. fp16 uses a gradient scaler."""


class LabelsConfig(Section):
    """How pseudo-labels are made and kept."""

    source: Literal["inline", "pool"] = "inline"
    """`inline`: each training process runs the teacher itself. `pool`: separate teacher actors (needs Ray)."""
    lookahead: NonNegativeInt = 0
    """Ask for labels so many steps ahead (A). 0 is the papers' algorithm."""
    publish_every: PositiveInt = 1
    """Publish a new teacher every so many steps (P). Label age is at most A + P - 1 steps."""
    score_floor: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Candidates at or below this score are not stored."""
    top_k: PositiveInt = 1000
    """Most candidates stored per image, best score first."""
    forward_images: PositiveInt = 1
    """Images per teacher forward. With 1 a label does not depend on its neighbours in the batch, bit for bit."""
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
    engine: Literal["auto", "hotcoco", "pycocotools"] = "auto"
    """COCO AP engine; `auto` takes hotcoco where installed (same figures, faster) and says which."""
    max_images: PositiveInt | None = None
    """Evaluate on the first so many images only (all by default)."""


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
    """One training run."""

    run: RunSection
    seed: int = 0
    """Seeds every draw of the run; the labelled split has its own (`data.split_seed`)."""
    data: DataConfig
    model: ModelConfig = ModelConfig()
    method: MethodConfig
    optim: OptimConfig = OptimConfig()
    labels: LabelsConfig = LabelsConfig()
    pool: PoolConfig = PoolConfig()
    cluster: ClusterConfig = ClusterConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    log: LogConfig = LogConfig()

    @property
    def last_step(self) -> int:
        """Optimiser steps completed when the run ends."""
        return min(self.optim.steps, self.run.stop_at or self.optim.steps)

    @property
    def uses_labels(self) -> bool:
        """Whether the method trains on pseudo-labels."""
        return not isinstance(self.method, SupervisedConfig)

    @model_validator(mode="after")
    def _no_contradictions(self) -> RunConfig:
        for problem in _contradictions(self):
            raise ValueError(problem)
        return self


def _contradictions(config: RunConfig) -> list[str]:
    """Return what cannot be meant, each with the keys and what to change."""
    found = []
    labels, optim, cluster, method = config.labels, config.optim, config.cluster, config.method
    if labels.source == "pool" and labels.lookahead == 0:
        found.append(
            "labels.source=pool with labels.lookahead=0: every step would wait for the pool; "
            "set labels.lookahead >= 1 or labels.source=inline"
        )
    if labels.source == "pool" and cluster.backend == "process":
        found.append("labels.source=pool needs Ray; set cluster.backend=ray or labels.source=inline")
    if config.uses_labels and method.burn_in_steps >= optim.steps:
        found.append(
            f"method.burn_in_steps={method.burn_in_steps} leaves nothing of optim.steps={optim.steps} for the "
            f"teacher; lower the first, raise the second, or use method.name=supervised"
        )
    data = config.data
    leaves_some = data.labeled_count or data.labeled_ids or (data.labeled_fraction or 1) < 1
    if config.uses_labels and data.unlabeled is None and not leaves_some:
        found.append(
            f"method.name={method.name} needs unlabelled images: set data.unlabeled, or data.labeled_count or "
            f"data.labeled_fraction (< 1) to leave some of data.labeled unlabelled"
        )
    if config.model.backbone != "small_gn" and config.model.weights is None and cluster.workers > 1:
        found.append(
            f"model.backbone={config.model.backbone} without model.weights trains its batch norm, whose statistics "
            f"would differ between the {cluster.workers} workers; set model.weights, use model.backbone=small_gn, or "
            f"one worker"
        )
    smallest = optim.labeled_batch if not config.uses_labels else min(optim.labeled_batch, optim.unlabeled_batch)
    if cluster.workers * optim.accumulate > smallest:
        found.append(
            f"cluster.workers={cluster.workers} x optim.accumulate={optim.accumulate} needs batches of at least that "
            f"many images; optim.labeled_batch={optim.labeled_batch}, optim.unlabeled_batch={optim.unlabeled_batch}"
        )
    if not isinstance(method, SupervisedConfig) and method.score_threshold < labels.score_floor:
        found.append(
            f"method.score_threshold is below labels.score_floor={labels.score_floor}: labels would be incomplete; "
            f"lower labels.score_floor"
        )
    return found
