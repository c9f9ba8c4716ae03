"""Running a training on Ray: connect, check that it fits, start broker and workers, wait. Thin."""

from __future__ import annotations

import json
import os
import traceback
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import RayError
from ray.train.torch import TorchTrainer, get_device

from raydet.config.run import ClusterConfig, PoolConfig, RunConfig
from raydet.errors import ConfigError, RunError, UserError
from raydet.labels.source import LabelSource
from raydet.pool.launch import start_broker, stop_broker
from raydet.pool.source import PoolSource
from raydet.train.annotator import AnnotatorFactory
from raydet.train.group import Group
from raydet.train.launch import local_source
from raydet.train.rundir import RunFolder
from raydet.train.worker import train_rank

NAMESPACE = "raydet"


def connect(config: RunConfig) -> None:
    """Join the Ray that is there, or start a local one of this run's own. The only place that initialises Ray.

    In this order: a Ray this process already has; `cluster.address`; RAY_ADDRESS (set inside a submitted job, where
    resources must not be given); else a fresh local Ray, never another one that happens to run on this host.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # how often reports and failures are looked at
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=config.log.workers)
        return
    wanted = cpus_needed(config.cluster, config.pool if config.labels.source == "pool" else None)
    named = config.pool.resources.items()  # a local Ray has whatever the teachers ask for
    cpus = config.cluster.local_cpus or max(
        int(wanted + 0.999), os.cpu_count() or 1
    )  # logical: more than cores is fine
    ray.init(
        address="local",
        num_cpus=cpus,
        namespace=NAMESPACE,
        include_dashboard=config.cluster.dashboard,
        resources={name: amount * (config.pool.max_actors or config.pool.actors) for name, amount in named} or None,
        log_to_driver=config.log.workers,
        logging_level="ERROR",
    )


def cpus_needed(cluster: ClusterConfig, pool: PoolConfig | None) -> float:
    """Return the Ray CPUs that workers and teachers claim together."""
    teachers = 0.0 if pool is None else (pool.max_actors or pool.actors) * pool.cpus_per_actor
    return cluster.workers * cluster.cpus_per_worker + teachers


def check_fits(config: RunConfig) -> None:
    """Raise ConfigError, with the arithmetic, where the cluster can never hold the run."""
    have = ray.cluster_resources()
    cluster, pool = config.cluster, config.pool
    workers = cluster.min_workers or cluster.workers
    actors = (pool.min_actors or pool.actors) if config.labels.source == "pool" else 0
    needs = {
        "CPU": (workers * cluster.cpus_per_worker, actors * pool.cpus_per_actor),
        "GPU": (float(workers * cluster.gpus_per_worker), actors * pool.gpus_per_actor),
        **{name: (0.0, actors * amount) for name, amount in pool.resources.items()},
    }
    for name, (for_workers, for_teachers) in needs.items():
        if for_workers + for_teachers > have.get(name, 0.0):
            raise ConfigError(
                f"the run needs {for_workers:g} {name} for {workers} workers + {for_teachers:g} for {actors} teachers, "
                f"the cluster has {have.get(name, 0.0):g}: lower cluster.workers, pool.actors or their shares"
            )


def train_on_ray(config: RunConfig) -> None:
    """Train on Ray to the end. Raises the workers' own error where they fail for good."""
    started_here = not ray.is_initialized()
    connect(config)
    try:
        check_fits(config)
        _fit(config)
    finally:
        if started_here:
            ray.shutdown()


def _fit(config: RunConfig) -> None:
    folder = RunFolder(config.run.dir)
    broker = None
    if config.uses_labels and config.labels.source == "pool":
        device = "cuda" if config.pool.gpus_per_actor else "cpu"
        factory = AnnotatorFactory(config, str(folder.data), device)
        broker = start_broker(config.pool, factory, folder.labels, keep_versions=config.labels.keep_versions)
    cluster = config.cluster
    earlier = (path.name.removeprefix("attempt-") for path in (folder.path / "ray").glob("attempt-*"))
    attempt = 1 + max((int(number) for number in earlier if number.isdecimal()), default=0)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"config": config.model_dump_json(), "broker": broker},
        scaling_config=ray.train.ScalingConfig(
            num_workers=(cluster.min_workers, cluster.workers) if cluster.min_workers else cluster.workers,
            use_gpu=bool(cluster.gpus_per_worker),
            resources_per_worker={"CPU": cluster.cpus_per_worker}
            | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {}),
        ),
        # Ray Train would silently resume a name that it has seen; raydet resumes from its own checkpoints.
        run_config=ray.train.RunConfig(
            name=f"attempt-{attempt}",
            storage_path=str(folder.path / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    folder.verdict.unlink(missing_ok=True)
    try:
        try:
            trainer.fit()
        except ray.train.TrainingFailedError:
            _raise_verdict(folder)  # what a worker said is better than what Ray Train says about it
            raise
        _raise_verdict(folder)
        if broker is not None:
            stop_broker(broker)
    finally:
        if broker is not None:
            ray.kill(broker)


def _worker(spec: dict[str, Any]) -> None:
    """Run one rank; Ray Train calls this in each worker, again after a failure."""
    config = RunConfig.model_validate_json(spec["config"])
    context = ray.train.get_context()
    group = Group(context.get_world_rank(), context.get_world_size(), _device())
    broker = spec["broker"]

    def make_source(config: RunConfig, group: Group, attempt: int) -> LabelSource:
        if broker is None:
            return local_source(config, group, attempt)
        return PoolSource(broker, rank=group.rank, attempt=attempt, timeout_s=config.labels.timeout_s)

    verdict = RunFolder(config.run.dir).verdict
    if group.all_gather(verdict.exists())[0]:
        return  # an earlier attempt of this launch failed for good: end quietly, the driver raises what it said
    try:
        train_rank(config, group, make_source)
    except Exception as error:
        if not _is_worth_a_retry(error):
            text = {"is_users": isinstance(error, UserError), "message": str(error), "trace": traceback.format_exc()}
            aside = verdict.with_suffix(f".rank{group.rank}")
            aside.write_text(json.dumps(text), encoding="utf-8")
            aside.replace(verdict)  # two ranks may fail at once
        raise


def _is_worth_a_retry(error: Exception) -> bool:
    """Whether a new worker group may get further: yes where a process, a node or the network failed."""
    return isinstance(error, RuntimeError | OSError | RayError) and not isinstance(error, RunError)


def _raise_verdict(folder: RunFolder) -> None:
    if not folder.verdict.exists():
        return
    verdict = json.loads(folder.verdict.read_text(encoding="utf-8"))
    if verdict["is_users"]:
        raise UserError(verdict["message"])
    raise RunError(f"{verdict['message']}\n\non a worker:\n{verdict['trace']}")


def _device() -> torch.device:
    device = get_device()
    assert isinstance(device, torch.device)
    return device
