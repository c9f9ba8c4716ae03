"""Before a search starts: which trials, how many at once, how much disk; as numbers that can be shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from raydet.cluster.needs import Claim, Resources, check_fits, claims_of
from raydet.config.run import RunConfig
from raydet.contract import sizes_of
from raydet.data.prepared import PreparedSets
from raydet.doctor import estimate
from raydet.errors import ConfigError
from raydet.sweep.burn_in import burn_in_key, has_burn_in, sees
from raydet.sweep.folder import SweepFolder, Trial
from raydet.sweep.points import Point, seeded
from raydet.sweep.space import SpaceError, Sweep

DRIVER_CPUS = 0.1  # of a trial that only waits for its own Ray Train workers; a share, so that workers get the cores


def trials_of(points: Sequence[Point], sweep: Sweep, base: RunConfig, seeds: Sequence[int]) -> list[Trial]:
    """Return one trial per point and seed, with equal ids in every call.

    With the configuration's own seed alone a point is run as it is, its labelled images included.
    """
    found, as_configured = [], list(seeds) == [base.seed]
    for seed in seeds:
        for point in points:
            overrides = dict(point.overrides) if as_configured else seeded(point, sweep, seed, base)
            name = f"{point.number:04d}" if as_configured else f"{point.number:04d}-seed{seed}"
            found.append(Trial(name, point.number, seed, dict(point.values), overrides))
    return found


def with_shared_burn_ins(trials: Sequence[Trial], folder: SweepFolder, base: RunConfig) -> list[Trial]:
    """Give trials that agree on their burn-in its key; the first of each group come first, so that none waits long."""
    configs = {trial.id: folder.config_of(trial, base) for trial in trials}
    keys = {trial.id: burn_in_key(configs[trial.id]) for trial in trials if has_burn_in(configs[trial.id])}
    members = Counter(keys.values())
    grouped = [
        replace(trial, burn_in=keys[trial.id] if members[keys.get(trial.id, "")] > 1 else None) for trial in trials
    ]
    seen: set[str] = set()
    first: list[Trial] = []
    rest: list[Trial] = []
    for trial in grouped:
        is_first = trial.burn_in is None or trial.burn_in not in seen
        seen.add(trial.burn_in or "")
        (first if is_first else rest).append(trial)
    return first + rest


def most_burn_ins(config: RunConfig, keys: Sequence[str], number: int) -> int:
    """Return how many burn-ins `number` suggestions of a searcher share at most: one each where a key changes them."""
    if not (has_burn_in(config) or "method.burn_in_steps" in keys):
        return 0
    return number if sees(config, keys) else 1


def claims_of_trial(config: RunConfig, *, least: bool = False) -> list[Claim]:
    """Return what one trial claims of the cluster, its own process included; see `claims_of`."""
    cluster = config.cluster
    if cluster.backend == "process":
        each = {"CPU": cluster.cpus_per_worker, "GPU": float(cluster.gpus_per_worker)}
        return [Claim("trial", 1, {name: amount for name, amount in each.items() if amount})]
    return [Claim("trial driver", 1, {"CPU": DRIVER_CPUS}), *claims_of(config, least=least)]


def check_one_place(configs: Sequence[RunConfig]) -> None:
    """Raise SpaceError where trials' own processes would claim different resources: Tune gives all those of one."""
    places = [claims_of_trial(config)[0].each for config in configs]
    if other := next((each for each in places if each != places[0]), None):
        one, two = (", ".join(f"{amount:g} {name}" for name, amount in each.items()) for each in (places[0], other))
        raise SpaceError(
            f"a trial of the search claims {one}, another {two}, and all get the same place; give cluster.backend, "
            f"cluster.cpus_per_worker and cluster.gpus_per_worker one value for the whole search"
        )


def concurrency(
    configs: Sequence[RunConfig], nodes: Sequence[Resources], *, number: int, limit: int | None = None
) -> int:
    """Return how many of `number` trials fit the cluster at once, whichever of `configs` they have; at least 1.

    Raises ConfigError, with the sum, where one alone does not fit.
    """
    most = max(1, min(number, limit or number))
    for config in configs:
        check_fits(claims_of_trial(config, least=True), nodes)
        most = min(most, max(1, _packed(claims_of_trial(config), nodes, most)))
    return most


def _packed(claims: Sequence[Claim], nodes: Sequence[Resources], most: int) -> int:
    """Return how often the claims fit the nodes, each process whole on the first node that has room, up to `most`."""
    free = [dict(node) for node in nodes]
    for number in range(most):
        for claim in claims:
            for _ in range(claim.count):
                home = next((n for n in free if all(n.get(k, 0.0) + 1e-9 >= v for k, v in claim.each.items())), None)
                if home is None:
                    return number
                for name, amount in claim.each.items():
                    home[name] -= amount
    return most


@dataclass(frozen=True, slots=True)
class Disk:
    """An estimate in bytes."""

    at_once: int
    at_the_end: int


def disk_of(config: RunConfig, data: PreparedSets[Any], *, at_once: int, num_burn_ins: int) -> Disk:
    """Estimate what a search writes while trials run, and what stays: burn-ins and the best trial."""
    run = estimate.disk_of(config, sizes_of(data))
    burn_in = run.weights // 2  # student and optimiser; a trial has teachers, labels and more checkpoints besides
    trial = run.checkpoints + run.labels
    fixed = num_burn_ins * burn_in + trial  # the best trial so far is kept whole
    return Disk(fixed + at_once * trial, fixed)


def check_metric(config: RunConfig) -> None:
    """Raise ConfigError where a trial could never be judged."""
    if not config.data.has_val:
        raise ConfigError("a search compares trials on data.val, which is not set; set it, or data.val_count")
