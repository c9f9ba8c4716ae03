"""Running a training on Ray: connect, check that it fits, start broker and workers, wait. Thin."""

from __future__ import annotations

import json
import os
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import RayError
from ray.train.torch import TorchTrainer, get_device

from raydet import __version__
from raydet.arithmetic import Arithmetic
from raydet.cluster.address import address_of
from raydet.cluster.capacity import check_holds, own_bytes, this_machine
from raydet.cluster.connect import connected
from raydet.cluster.needs import check_fits, claims_of, idle_gpus, total
from raydet.cluster.nodes import alive_nodes
from raydet.cluster.storage import check_shared
from raydet.config.run import RunConfig
from raydet.contract import FamilyRun
from raydet.errors import RunError, StorageError, UserError
from raydet.faults import explain
from raydet.files import write_text
from raydet.group import Group
from raydet.labels.source import LabelSource
from raydet.pool.launch import start_broker, stop_broker
from raydet.pool.source import PoolSource
from raydet.registry import AnnotatorFactory
from raydet.settings import parse
from raydet.train.rundir import RunFolder
from raydet.train.worker import local_source, train_rank


def train_on_ray(config: RunConfig) -> None:
    """Train on Ray to the end. Raises the workers' own error where they fail for good."""
    wanted = total(claims_of(config))
    own = {name: amount for name, amount in wanted.items() if name not in ("CPU", "GPU")}  # a local Ray has them
    with connected(config.cluster, cpus=wanted["CPU"], resources=own, show_workers=config.log.workers):
        nodes = [node["Resources"] for node in alive_nodes()]
        check_fits(claims_of(config, least=True), nodes)
        for text in idle_gpus(claims_of(config), nodes):
            print(f"  warning: {text}", flush=True)
        check_shared(Path(config.run.dir), "run.dir")
        _fit(config)


def crowded(config: RunConfig) -> list[str]:
    """Return warnings where a local Ray is to hold more than this machine has; see `check_holds`.

    A process is taken to need what this one has, which has imported the same.
    """
    if ray.is_initialized() or address_of(config.cluster) is not None:
        return []
    return check_holds(claims_of(config), this_machine(), {"worker": own_bytes(), "teacher": own_bytes()})


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
            resources_per_worker={"CPU": cluster.cpus_per_worker, **cluster.resources}
            | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {}),
            elastic_resize_monitor_interval_s=cluster.resize_every_s,
        ),
        # Ray Train would silently resume a name that it has seen; raydet resumes from its own checkpoints.
        run_config=ray.train.RunConfig(
            name=f"attempt-{attempt}",
            storage_path=str(folder.path / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    # Ray Train reads it here, and has no argument for it.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(cluster.start_timeout_s)
    folder.verdict.unlink(missing_ok=True)
    try:
        try:
            trainer.fit()
        except SystemExit:  # Ray Train's answer to Ctrl-C, once its workers have ended
            raise KeyboardInterrupt from None
        except ray.train.TrainingFailedError as error:
            _raise_verdict(folder)  # what a worker said is better than what Ray Train says about it
            raise _of_workers(error) or error from None
        _raise_verdict(folder)
        if broker is not None:
            stop_broker(broker)
    finally:
        if broker is not None:
            ray.kill(broker)


def _worker(spec: dict[str, Any]) -> None:
    """Run one rank; Ray Train calls this in each worker, again after a failure."""
    config = parse(spec["config"])
    context = ray.train.get_context()
    group = Group(context.get_world_rank(), context.get_world_size(), _device())
    broker = spec["broker"]

    def make_source(config: RunConfig, family: FamilyRun, group: Group, attempt: int) -> LabelSource:
        if broker is None:
            return local_source(config, family, group, attempt)
        begun = Arithmetic(group.device.type, config.optim.precision)  # settled: never auto
        return PoolSource(broker, rank=group.rank, attempt=attempt, begun=begun, timeout_s=config.labels.timeout_s)

    verdict = RunFolder(config.run.dir).verdict
    if group.all_gather(verdict.exists())[0]:
        return  # an earlier attempt of this launch failed for good: end quietly, the driver raises what it said
    try:
        train_rank(config, group, make_source)
    except Exception as error:
        if not _is_worth_a_retry(error):
            with suppress(StorageError):  # the first error is the one to show
                write_text(verdict, json.dumps(_told(error)))  # two ranks may fail at once
        raise


def _is_worth_a_retry(error: Exception) -> bool:
    """Whether a new worker group may get further: yes where a process, a node or the network failed."""
    return isinstance(error, RuntimeError | OSError | RayError) and not isinstance(error, RunError)


def _raise_verdict(folder: RunFolder) -> None:
    if not folder.verdict.exists():
        return
    verdict = json.loads(folder.verdict.read_text(encoding="utf-8"))
    raise _KINDS[verdict["kind"]](verdict["message"])


# What a worker says is raised again in the driver as one of these; what is none of them is a bug, with its traceback.
_KINDS: dict[str, type[Exception]] = {each.__name__: each for each in (UserError, StorageError, RunError)}


def _told(error: Exception) -> dict[str, str]:
    """Return an error as the driver reads it."""
    kind = next((name for name, each in _KINDS.items() if isinstance(error, each)), "RunError")
    if isinstance(error, UserError | RunError):
        return {"kind": kind, "message": str(error)}
    if (said := explain(error)) is not None:
        return {"kind": kind, "message": said}
    bug = f"this is a bug in raydet {__version__}: please report it, with the lines above"
    return {"kind": kind, "message": f"{error}\n\non a worker:\n{traceback.format_exc()}\n{bug}"}


def _of_workers(error: ray.train.TrainingFailedError) -> Exception | None:
    """Return the error of raydet's own that a worker failed with and could not write down."""
    failures = getattr(error, "worker_failures", {}).values()
    return next((each for each in failures if isinstance(each, UserError | RunError)), None)


def _device() -> torch.device:
    device = get_device()
    assert isinstance(device, torch.device)
    return device
