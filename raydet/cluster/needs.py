"""What a run claims of a cluster, as arithmetic that can be shown. No Ray here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raydet.config.run import RunConfig
from raydet.errors import ConfigError
from raydet.text import plural

Resources = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Claim:
    """So many processes of one kind, each on one node with these resources."""

    what: str  # "worker", "teacher", "driver": of one
    count: int
    each: Resources

    def total(self, name: str) -> float:
        """Return how much of a resource all of them claim together."""
        return self.count * self.each.get(name, 0.0)


def claims_of(config: RunConfig, *, least: bool = False) -> list[Claim]:
    """Return what a run claims; with `least` the smallest group and pool that it can go on with.

    The broker and Ray Train's controller claim nothing. A run without Ray claims nothing.
    """
    cluster, pool = config.cluster, config.pool
    if cluster.backend == "process":
        return []
    workers = (cluster.min_workers if least else None) or cluster.workers
    worker = {"CPU": cluster.cpus_per_worker, "GPU": float(cluster.gpus_per_worker), **cluster.resources}
    claims = [Claim("worker", workers, _without_zeros(worker))]
    if config.uses_labels and config.labels.source == "pool":
        teachers = (pool.min_actors if least else pool.max_actors) or pool.actors
        teacher = {"CPU": pool.cpus_per_actor, "GPU": pool.gpus_per_actor, **pool.resources}
        claims.append(Claim("teacher", teachers, _without_zeros(teacher)))
    return claims


def total(claims: Iterable[Claim]) -> dict[str, float]:
    """Return the sum by resource."""
    found: dict[str, float] = {}
    for claim in claims:
        for name in claim.each:
            found[name] = found.get(name, 0.0) + claim.total(name)
    return found


def arithmetic(claims: Sequence[Claim], name: str) -> str:
    """Return e.g. `2 GPU for 2 workers + 1 for 1 teacher`."""
    parts = [f"{claim.total(name):g} for {plural(claim.count, claim.what)}" for claim in claims if name in claim.each]
    return f"{name}: " + " + ".join(parts)


def check_fits(claims: Sequence[Claim], nodes: Sequence[Resources]) -> None:
    """Raise ConfigError, with the arithmetic, where nodes with these resources can never hold the claims.

    Sums over the cluster, and each process against the best node: two nodes with one GPU each hold no two-GPU worker.
    """
    problems = []
    for name, wanted in total(claims).items():
        have = sum(node.get(name, 0.0) for node in nodes)
        if wanted > have + 1e-9:
            problems.append(f"{arithmetic(claims, name)}, together {wanted:g}; the cluster has {have:g}")
    for claim in claims:
        fits = any(all(node.get(k, 0.0) + 1e-9 >= v for k, v in claim.each.items()) for node in nodes)
        if not problems and not fits:
            each = ", ".join(f"{amount:g} {name}" for name, amount in claim.each.items())
            problems.append(f"each of {plural(claim.count, claim.what)} needs {each} on one node; no node has that")
    if problems:
        raise ConfigError(
            "the run does not fit the cluster: "
            + "; ".join(problems)
            + ". Lower cluster.workers, pool.actors or their shares, or add nodes"
        )


def idle_gpus(claims: Sequence[Claim], nodes: Sequence[Resources]) -> list[str]:
    """Return a warning where nodes have GPUs and nothing claims one: Ray hides them from what does not."""
    have = sum(node.get("GPU", 0.0) for node in nodes)
    if not have or not claims or "GPU" in total(claims):
        return []
    gpus = plural(int(have), "GPU")
    return [f"the cluster has {gpus}, and none is asked for: all is done on CPUs; cluster.gpus_per_worker=1 uses them"]


def _without_zeros(resources: Resources) -> dict[str, float]:
    return {name: float(amount) for name, amount in resources.items() if amount}
