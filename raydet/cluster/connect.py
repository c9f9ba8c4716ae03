"""Joining a Ray, or starting one. The only place that initialises Ray."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from raydet.cluster.address import address_of, check_answers, origin_of
from raydet.cluster.capacity import cores
from raydet.config.run import ClusterConfig
from raydet.errors import ConfigError, RunError, Terminated

NAMESPACE = "raydet"


@contextmanager
def connected(
    cluster: ClusterConfig,
    *,
    cpus: float,
    resources: Mapping[str, float] | None = None,
    dashboard: bool | None = None,
    show_workers: bool = False,
) -> Iterator[str]:
    """Join the Ray that is there, or start a local one of our own; leave it behind as it was found.

    In this order: a Ray this process already has; `cluster.address`; RAY_ADDRESS (set inside a submitted job, where
    resources must not be given); else a fresh local Ray with at least `cpus` logical CPUs and the custom `resources`,
    never another Ray that happens to run on this host. `dashboard` overrides `cluster.dashboard` for a local Ray.
    Gives its dashboard's HOST:PORT, or an empty text where that is unknown. Raises ConfigError where the address does
    not answer or does not let this process in (Ray says the same of both), RunError where no local Ray comes up.
    """
    if ray.is_initialized():
        yield ""
        return
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # how often reports and failures are looked at
    address = address_of(cluster)
    if address is not None:
        check_answers(cluster)
        context = _joined(cluster, address, show_workers)
    else:
        context = _started(
            # Logical CPUs: more than cores is fine.
            num_cpus=cluster.local_cpus or max(int(cpus + 0.999), cores()),
            include_dashboard=cluster.dashboard if dashboard is None else dashboard,
            resources=dict(resources or {}) or None,
            log_to_driver=show_workers,
        )
    try:
        yield str(context.dashboard_url or "")
    finally:
        ray.shutdown()


def _started(**options: Any) -> Any:
    """Start a local Ray. Raises RunError where it does not come up in time: Ray has no name for that."""
    try:
        with _signals_kept():
            return ray.init(address="local", namespace=NAMESPACE, logging_level="ERROR", **options)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        raise RunError(
            f"no Ray came up on this machine in time: {os.getloadavg()[0]:.0f} programs want its {cores()} cores; run "
            f"the command again when there are fewer, or with cluster.backend=process where the command has no other "
            f"need of Ray"
        ) from None


def _joined(cluster: ClusterConfig, address: str, show_workers: bool) -> Any:
    """Join the Ray at an address. Raises ConfigError."""
    try:
        with _signals_kept():
            return ray.init(address=address, namespace=NAMESPACE, log_to_driver=show_workers)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{origin_of(cluster)}={address}: no Ray answers there; start one with `ray start --head`, mend the "
            f"address, give this process the head's token (RAY_AUTH_MODE=token and RAY_AUTH_TOKEN), or leave the "
            f"address out for a local Ray. Ray says: {str(error).strip()}"
        ) from None


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep what SIGTERM does: Ray sets a handler of its own, with which the process would end without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as end:
        if end.code == signal.SIGTERM:  # Ray's handler, while it was starting
            raise Terminated from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
