"""Starting and ending the pool, from the driver."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import ray
from ray import cloudpickle
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydet.cluster.actors import GONE
from raydet.config.run import PoolConfig
from raydet.labels.source import Annotator
from raydet.pool.broker import LabelBroker
from raydet.pool.scaling import PoolTiming

_log = logging.getLogger(__name__)


def start_broker(
    config: PoolConfig,
    factory: Callable[[], Annotator],
    folder: str | Path,
    *,
    keep_versions: int | None = None,
    timing: PoolTiming | None = None,
) -> ActorHandle:
    """Create the broker, which creates the teachers. Returns at once; the handle can be sent to other processes.

    The broker lives as long as this process and on its node, so that the loss of another node cannot take it along; it
    is restarted whenever it dies before `stop_broker` ends it. `folder` is the label store.
    """
    broker = (
        ray.remote(LabelBroker)
        .options(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,  # the training processes repeat what has to be repeated
            scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
        )
        .remote(config, cloudpickle.dumps(factory), str(folder), keep_versions, timing or PoolTiming())
    )
    broker.teachers.remote()  # the first call starts the teachers
    return broker


def stop_broker(broker: ActorHandle, *, timeout_s: float = 60.0) -> None:
    """Wait until all labels are on disk, then end broker and teachers.

    A broker that does not answer is only warned about: what a resume needs was written at the last checkpoint.
    """
    try:
        ray.get(broker.close.remote(), timeout=timeout_s)
    except (*GONE, GetTimeoutError) as error:
        _log.warning("the label broker ended without writing its last labels: %s", error)
    finally:
        ray.kill(broker)
