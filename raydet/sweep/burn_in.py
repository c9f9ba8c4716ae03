"""Shared burn-ins: trials that agree on everything their burn-in depends on start from one, trained once.

What a burn-in depends on is the configuration without what it does not see: the run's folder, labels, pool, logging,
what a method declares (`Method.unseen_by_burn_in`), and settings that act later. Two configurations with the same
`burn_in_key` have the same weights, bit for bit, at the burn-in's end.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raydet.config.run import RunConfig
from raydet.errors import CheckpointError, FolderInUseError
from raydet.registry import method_class
from raydet.settings import resolve
from raydet.train.checkpoint import open_checkpoint
from raydet.train.launch import launch, with_absolute_paths
from raydet.train.rundir import is_in

# Sections and keys that no burn-in sees, whatever the method. The cluster's shape is seen: it decides the rounding.
UNSEEN = (
    "run",
    "labels",
    "pool",
    "checkpoint",
    "eval",
    "log",
    "optim.divergence_ratio",
    "cluster.address",
    "cluster.max_failures",
    "cluster.local_cpus",
    "cluster.dashboard",
    "data.val",
    "data.test",
    "data.loader_threads",
    "data.prefetch_steps",
)
WAIT_S = 1.0


def burn_in_key(config: RunConfig) -> str:
    """Return a hash of exactly the settings that the burn-in depends on."""
    seen = _pruned(config.model_dump(mode="json"), _unseen(config))
    seen["optim"]["decay_at"] = _decays(config)
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]


def burn_in_config(config: RunConfig, base: RunConfig, folder: Path) -> RunConfig:
    """Return the run that trains a configuration's burn-in and no more, in `folder`.

    What the burn-in does not see is taken from the search's base, so that every trial of the group means the same run.
    `optim.steps` is the trial's own where the learning rate goes by it, see `_unseen`, and where the base is of another
    method.
    """
    tree, common = config.model_dump(mode="json"), base.model_dump(mode="json")
    is_other = config.method.name != base.method.name
    for path in _unseen(config):
        if not (is_other and path.startswith(("method.", "optim.steps"))):
            _copy(common, tree, path)
    tree["run"] = {"dir": str(folder), "fork_from": None, "stop_at": config.method.burn_in_steps}
    tree["optim"]["steps"] = max(tree["optim"]["steps"], config.method.burn_in_steps + 1)
    tree["optim"]["decay_at"] = _decays(config)
    return resolve(tree, {}, where="the shared burn-in")


def shared_burn_in(config: RunConfig, base: RunConfig, folder: Path, *, wait_s: float = WAIT_S) -> Path:
    """Return the checkpoint at the burn-in's end, trained here if nobody has; waits while another process trains it.

    A trainer that died leaves its lock to the next caller, who goes on from its last checkpoint.
    """
    burn_in = with_absolute_paths(burn_in_config(config, base, folder))
    checkpoint = folder / "checkpoints" / f"step_{config.method.burn_in_steps:08d}"
    while not is_whole(checkpoint):
        try:
            launch(burn_in, resume=(folder / "config.json").exists())
        except FolderInUseError:
            time.sleep(wait_s)
    return checkpoint


def has_burn_in(config: RunConfig) -> bool:
    """Whether a run trains a whole burn-in, and more, so that others could start from it."""
    return 0 < config.method.burn_in_steps < config.last_step and config.run.fork_from is None


def sees(config: RunConfig, keys: Iterable[str]) -> bool:
    """Whether a burn-in depends on one of these settings; `optim.decay_at` counts, whatever its steps."""
    unseen = _unseen(config)
    return not all(is_in(key, unseen) for key in keys)


def is_whole(checkpoint: Path) -> bool:
    """Whether a complete checkpoint is there."""
    if not checkpoint.is_dir():
        return False
    try:
        open_checkpoint(checkpoint)
    except CheckpointError:
        return False
    return True


def _decays(config: RunConfig) -> list[int]:
    return sorted(step for step in config.optim.decay_at if step < config.method.burn_in_steps)


def _unseen(config: RunConfig) -> list[str]:
    of_method = [f"method.{name}" for name in method_class(config).unseen_by_burn_in]
    # With linear scaling the unlabelled batch is part of the learning rate.
    batch = ["optim.unlabeled_batch"] if config.optim.lr_scaling == "none" else []
    # A cosine falls to 0 at the run's end: how long the run is decides the rate of every step.
    length = [] if config.optim.schedule == "cosine" else ["optim.steps"]
    return [*UNSEEN, *of_method, *batch, *length]


def _pruned(tree: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    gone = set(paths)

    def prune(node: Any, prefix: str) -> Any:
        if not isinstance(node, dict):
            return node
        return {k: prune(v, f"{prefix}{k}.") for k, v in node.items() if f"{prefix}{k}" not in gone}

    return dict(prune(tree, ""))


def _copy(source: Mapping[str, Any], target: dict[str, Any], path: str) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        source, target = source[parent], target[parent]
    target[last] = source[last]
