"""Asking every node of a cluster the same question, whatever is installed there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What one node said: a value, or what went wrong instead."""

    node: str  # e.g. "10.0.0.3 (worker-1)"
    value: T | None
    error: str = ""


def alive_nodes() -> list[dict[str, Any]]:
    """Return Ray's records of the nodes that are there now."""
    return [node for node in ray.nodes() if node["Alive"]]


def ask_every_node(question: Callable[..., T], *arguments: Any, timeout_s: float = 60.0) -> list[Answer[T]]:
    """Run a module-level function once on every node, without claiming anything of it, and return all answers.

    The function travels by value with the code of its module, so that it also runs where raydet is missing or another
    version: such a module imports what it needs inside its functions. `timeout_s` is for all nodes together.
    """
    module = sys.modules[question.__module__]
    cloudpickle.register_pickle_by_value(module)
    try:
        remote = ray.remote(num_cpus=0, max_retries=0)(question)
        asked = []
        for node in alive_nodes():
            name = f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
            pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked.append((name, remote.options(scheduling_strategy=pinned).remote(*arguments)))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    ray.wait([ref for _, ref in asked], num_returns=len(asked), timeout=timeout_s)
    return [_answer(name, ref, timeout_s) for name, ref in asked]


def _answer(name: str, ref: ray.ObjectRef, timeout_s: float) -> Answer[Any]:
    try:
        return Answer(name, ray.get(ref, timeout=0.1))
    except ray.exceptions.GetTimeoutError:
        ray.cancel(ref, force=True)
        return Answer(name, None, f"no answer within {timeout_s:g} s")
    except ray.exceptions.RayError as error:
        return Answer(name, None, str(error).strip().splitlines()[-1])
