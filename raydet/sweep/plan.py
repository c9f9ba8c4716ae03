"""Before a search starts: which trials, how many at once, how much disk; as numbers that can be shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from raydet.cluster.needs import Claim, Resources, check_fits, claims_of, total
from raydet.config.run import RunConfig
from raydet.errors import ConfigError
from raydet.methods import build_method
from raydet.sweep.burn_in import burn_in_key
from raydet.sweep.folder import SweepFolder, Trial
from raydet.sweep.points import Point, seeded
from raydet.sweep.space import Sweep

DRIVER_CPUS = 0.1  # of a trial that only waits for its own Ray Train workers; a share, so that workers get the cores
LABEL_BYTES = 8_000  # of a stored label, see benchmarks/store.md


def trials_of(points: Sequence[Point], sweep: Sweep, base: RunConfig, seeds: Sequence[int]) -> list[Trial]:
    """Return one trial per point and seed, with equal ids in every call."""
    found = []
    for seed in seeds:
        for point in points:
            overrides = seeded(point, sweep, seed, base) if len(seeds) > 1 else dict(point.overrides)
            name = f"{point.number:04d}-seed{seed}" if len(seeds) > 1 else f"{point.number:04d}"
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


def has_burn_in(config: RunConfig) -> bool:
    """Whether a run trains a burn-in that others could start from."""
    return config.method.burn_in_steps > 0 and config.run.fork_from is None


def claims_of_trial(config: RunConfig) -> list[Claim]:
    """Return what one trial claims of the cluster, its own process included."""
    cluster = config.cluster
    if cluster.backend == "process":
        each = {"CPU": cluster.cpus_per_worker, "GPU": float(cluster.gpus_per_worker)}
        return [Claim("trials", 1, {name: amount for name, amount in each.items() if amount})]
    return [Claim("trial drivers", 1, {"CPU": DRIVER_CPUS}), *claims_of(config)]


def concurrency(configs: Sequence[RunConfig], nodes: Sequence[Resources], *, limit: int | None = None) -> int:
    """Return how many trials fit the cluster at once, at least 1. Raises ConfigError, with the sum, where none does."""
    largest: dict[str, float] = {}
    for config in configs:
        claims = claims_of_trial(config)
        check_fits(claims, nodes)
        for name, amount in total(claims).items():
            largest[name] = max(largest.get(name, 0.0), amount)
    have = {name: sum(node.get(name, 0.0) for node in nodes) for name in largest}
    fit = min(int(have[name] / amount + 1e-9) for name, amount in largest.items())
    return max(1, min(fit, limit or fit, len(configs)))


@dataclass(frozen=True, slots=True)
class Disk:
    """An estimate in bytes."""

    at_once: int
    at_the_end: int


def disk_of(config: RunConfig, *, num_classes: int, at_once: int, num_burn_ins: int) -> Disk:
    """Estimate what a search writes: checkpoints and labels while trials run; afterwards burn-ins and the best trial.

    A checkpoint holds student, teacher and the optimiser's moments in float32; the newest, the best and the burn-in's
    end are kept while a trial runs.
    """
    parameters = sum(p.numel() for p in build_method(config).build_model(num_classes).parameters())
    moments = {"sgd": 1, "adamw": 2}[config.optim.name]
    burn_in = 4 * parameters * (1 + moments)
    checkpoint = burn_in + (4 * parameters if config.uses_labels else 0)
    mutual = max(0, config.last_step - config.method.burn_in_steps) if config.uses_labels else 0
    labels = mutual * config.optim.unlabeled_batch * LABEL_BYTES
    trial = 3 * checkpoint + labels
    fixed = num_burn_ins * burn_in + trial  # the best trial so far is kept whole
    return Disk(fixed + at_once * trial, fixed)


def check_metric(config: RunConfig) -> None:
    """Raise ConfigError where a trial could never be judged."""
    if config.data.val is None:
        raise ConfigError("a search compares trials on data.val, which is not set; set it to withheld labelled images")
