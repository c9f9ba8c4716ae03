"""What a search asks: a small Python file that holds one `Sweep`, read and checked here.

    from ray import tune
    from raydet.sweep.space import Sweep

    sweep = Sweep(
        question="How strong should the unsupervised box regression be?",
        space={"method.unsup_reg_weight": tune.grid_search([0.5, 1.0, 2.0, 4.0])},
    )

Keys are the dotted paths of the configuration; values are Ray Tune's `grid_search`, `choice`, `uniform`, `loguniform`,
`randint` and their like. A space file is a program of the user's own, run as such.
"""

from __future__ import annotations

import json
import runpy
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search.sample import Domain, Function, Sampler

from raydet.config.run import RunConfig
from raydet.errors import UserError
from raydet.metrics import mode_of
from raydet.registry import run_configs

METRICS = tuple(name for run in run_configs() for name in run.figures)
PBT_REFUSED = (
    "population based training is not supported: it changes settings in the middle of a run, so its result is no "
    "configuration that `raydet train` could repeat, and pseudo-labels would come from a teacher that no single run "
    "has made; use scheduler=None or Asha(...)"
)


class SpaceError(UserError):
    """A search space that cannot be used."""


@dataclass(frozen=True, slots=True)
class Asha:
    """Stop weak trials early: asynchronous successive halving (Li et al., MLSys 2020) over optimiser steps.

    A trial is compared first when it has trained `grace_steps` steps, burn-in included, then at `reduction` times as
    many, and so on; the best 1 / `reduction` of the trials go on.
    """

    grace_steps: int
    reduction: int = 3


@dataclass(frozen=True, slots=True)
class Published:
    """A paper's figures for the same question, drawn beside the search's own."""

    source: str
    """E.g. `IL-net, Table 1`."""
    figure: str
    """What was measured there, e.g. `AP, COCO val, 10 % of the labels` or `error, CIFAR-10 test, 4000 labels`."""
    values: Mapping[Any, float]
    """Swept value (or variant's name) -> figure in percent, as papers print it, of the same kind as the metric."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """One question: what varies, what is fixed, what decides. Either `space` or `variants` is given."""

    question: str
    space: Mapping[str, Any] = field(default_factory=dict)
    """Dotted key -> Ray Tune domain or `grid_search`; grids are crossed."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name -> settings that change together, for the rows of an ablation table."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Dotted key -> value that all points share, where the question is asked at another setting than the config's."""
    metric: str | None = None
    """The figure that decides; default: AP of a detector, accuracy of a classifier."""
    mode: Literal["max", "min"] | None = None
    """Whether the highest or the lowest figure is best; default: what the metric means."""
    samples: int = 1
    """Draws from the random domains (for each grid point)."""
    search: Literal["random", "optuna"] = "random"
    """Who chooses the points of random domains; Optuna learns from finished trials."""
    scheduler: Asha | None = None
    seed_keys: tuple[str, ...] = ("seed", "data.split_seed")
    """What a seed sets when a search runs several seeds per point; the points may not set it themselves then."""
    published: Published | None = None
    curves: Mapping[str, str] = field(default_factory=dict)
    """Metric of a step, as in metrics.jsonl -> what it is: drawn over the steps of all trials in the report."""

    def as_text(self) -> dict[str, str]:
        """Return swept key (or variant's name) -> what it may be: equal texts mean equal searches."""
        domains = {key: value if is_grid(value) else _described(value) for key, value in self.space.items()}
        return {key: _text(value) for key, value in (domains or self.variants).items()}

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the names of what varies, in order; `variant` for named variants."""
        return tuple(self.space) if self.space else ("variant",)

    @property
    def is_drawn(self) -> bool:
        """Whether something varies over a random domain, of which `samples` draws are made."""
        return not all(map(is_grid, self.space.values()))

    def judged_by(self, base: RunConfig) -> tuple[str, str]:
        """Return metric and mode for runs like `base`. Raises SpaceError where these have no such figure."""
        known = base.figures
        metric = known[0] if self.metric is None else self.metric
        if metric not in known:
            raise SpaceError(
                f"metric={metric!r} is never reported by method.name={base.method.name}; choose one of "
                f"{', '.join(known)}"
            )
        return metric, mode_of(metric)


def load_sweep(path: str | Path) -> Sweep:
    """Run a space file and return its `sweep`, checked. Raises SpaceError that names the file and what is wrong."""
    file = Path(path)
    if not file.is_file():
        raise SpaceError(f"{file}: no such space file; tune_spaces/ holds examples")
    try:
        found = runpy.run_path(str(file)).get("sweep")
    except Exception as error:
        line = next(
            (f.lineno for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == str(file)), "?"
        )
        raise SpaceError(f"{file}, line {line}: {type(error).__name__}: {error}") from None
    if not isinstance(found, Sweep):
        raise SpaceError(f"{file}: defines no `sweep = Sweep(...)`; see the top of raydet/sweep/space.py")
    for problem in problems_of(found):
        raise SpaceError(f"{file}: {problem}")
    return found


def only_seeds() -> Sweep:
    """Return the search that changes nothing: the configuration itself, once with every seed."""
    return Sweep("How far apart are runs that differ in nothing but their seed?", variants={"as configured": {}})


def problems_of(sweep: Sweep) -> list[str]:
    """Return what is wrong with a search, apart from its keys, which the configuration checks."""
    found = []
    if bool(sweep.space) == bool(sweep.variants):
        found.append("the search is empty or ambiguous: give either space={...} or variants={...}")
    for key, domain in sweep.space.items():
        if isinstance(domain, Function):
            found.append(f"{key}: sample_from depends on other values; write the points as variants instead")
        elif not _is_domain(domain):
            found.append(f"{key}={domain!r}: expected tune.grid_search([...]), tune.uniform(...) or another domain")
        elif is_grid(domain) and not domain["grid_search"]:
            found.append(f"{key}: the grid is empty")
        elif is_grid(domain) and len(set(map(_text, domain["grid_search"]))) < len(domain["grid_search"]):
            found.append(f"{key}: the grid {domain['grid_search']} holds a value twice")
    found += _metric_problems(sweep.metric, sweep.mode)
    if sweep.samples < 1:
        found.append(f"samples={sweep.samples}: at least 1")
    if sweep.search not in ("random", "optuna"):
        found.append(f"search={sweep.search!r}: random or optuna (grids need no choice)")
    if sweep.search == "optuna" and (sweep.variants or any(map(is_grid, sweep.space.values()))):
        found.append("search='optuna' chooses from random domains; a grid or variants leave it nothing to choose")
    found += _scheduler_problems(sweep.scheduler)
    return found


def _metric_problems(metric: str | None, mode: str | None) -> list[str]:
    if metric is not None and metric not in METRICS:
        return [f"metric={metric!r} is never reported; choose one of {', '.join(METRICS)}"]
    right = mode_of(metric or METRICS[0])
    if mode not in (None, right):
        return [
            f"mode={mode!r}: {metric or 'AP, or accuracy,'} is best at its {right}; write mode={right!r} or no mode"
        ]
    return []


def is_grid(domain: Any) -> bool:
    """Whether it is the result of `tune.grid_search`."""
    return isinstance(domain, Mapping) and set(domain) == {"grid_search"}


def _is_domain(domain: Any) -> bool:
    return isinstance(domain, Domain) or is_grid(domain)


def _scheduler_problems(scheduler: Any) -> list[str]:
    if scheduler is None:
        return []
    if isinstance(scheduler, Asha):
        low = scheduler.grace_steps < 1 or scheduler.reduction < 2
        return ["Asha: grace_steps is at least 1, reduction at least 2"] if low else []
    if "Population" in type(scheduler).__name__ or scheduler in ("pbt", "pb2"):
        return [PBT_REFUSED]
    is_rays = isinstance(scheduler, TrialScheduler) and not isinstance(scheduler, FIFOScheduler)
    hint = "; raydet builds Ray's ASHAScheduler itself" if is_rays else ""
    return [f"scheduler={scheduler!r}: None or Asha(grace_steps=...){hint}"]


def _described(part: Any) -> Any:
    """Return a domain of Ray Tune and its samplers as plain data: their classes and parameters."""
    if isinstance(part, Domain | Sampler):
        parts = {name: _described(value) for name, value in sorted(vars(part).items()) if value is not None}
        return {type(part).__name__: parts}
    return part


def _text(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):
        return repr(value)
