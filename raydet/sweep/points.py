"""The points of a search, all known and checked before anything starts: what is wrong with the last is told first."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raydet.config.run import RunConfig
from raydet.errors import ConfigError
from raydet.settings import resolve
from raydet.sweep.space import SpaceError, Sweep, is_grid
from raydet.train.rundir import flat

_ITS_RAY = "all trials run on the Ray of the search, which goes by the configuration"
# What every trial has from its search, whatever a point says, and why; see `SweepFolder.config_of` and `run_trials`.
OF_THE_SEARCH = {
    "run.dir": "every trial has its own folder, below that of the search",
    "checkpoint.keep": "a trial keeps no more than it needs to go on, and in the end only the best one keeps any",
    "cluster.address": _ITS_RAY,
    "cluster.local_cpus": _ITS_RAY,
    "cluster.dashboard": _ITS_RAY,
    "cluster.max_failures": "how often a trial is started again is the configuration's to say, for all of them",
    "log.workers": _ITS_RAY,
}


@dataclass(frozen=True, slots=True)
class Point:
    """One setting under test."""

    number: int
    values: Mapping[str, Any]  # what the search varies, for tables and plots
    overrides: Mapping[str, Any]  # the same as settings of the configuration, with the search's fixed ones


def points_of(sweep: Sweep, *, samples: int | None = None, seed: int = 0) -> list[Point]:
    """Return the grid, the random draws or the variants, in order; equal draws are one point.

    The same arguments give the same points. Raises SpaceError where a value is not plain data (JSON).
    """
    found: dict[str, Point] = {}
    for values, overrides in _settings(sweep, samples or sweep.samples, seed):
        try:
            key = json.dumps(overrides, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise SpaceError(f"{values}: a value is not plain data (number, text, list, mapping): {error}") from None
        plain = json.loads(json.dumps(values))
        found.setdefault(key, Point(len(found), plain, {**sweep.settings, **json.loads(key)}))
    return list(found.values())


def check_points(base: Mapping[str, Any], points: Sequence[Point], *, where: str) -> list[RunConfig]:
    """Return every point's configuration. Raises ConfigError naming the point, the key and what is allowed, and
    SpaceError for a key that no trial has of its own."""
    found = []
    for point in points:
        for key in sorted(OF_THE_SEARCH.keys() & _keys(point)):
            what = f"{_name(point)} sets {key}, which no trial can set"
            raise SpaceError(f"{what}: {OF_THE_SEARCH[key]}; take it out of the space file")
        try:
            found.append(resolve(base, point.overrides, where=where))
        except ConfigError as error:
            raise ConfigError(f"{_name(point)}: {error}") from None
    return found


def check_seeds(points: Sequence[Point], sweep: Sweep, seeds: Sequence[int]) -> None:
    """Raise SpaceError where a seed would replace what a point sets: points would differ in their names alone."""
    for point in points:
        if held := [key for key in sweep.seed_keys if key in _keys(point)]:
            rest = tuple(key for key in sweep.seed_keys if key not in held)
            keys = " and ".join(held)
            ways = ["leave --seeds out", f"take {keys} out of the space file"]
            ways += [f"let the seeds set no more than the rest: Sweep(..., seed_keys={rest})"] if rest else []
            raise SpaceError(
                f"--seeds {' '.join(map(str, seeds))} would replace {keys}, which {_name(point)} sets itself; "
                f"{', or '.join(ways)}"
            )


def draw_points(sweep: Sweep, number: int) -> list[Point]:
    """Return points such as a searcher may suggest, to see whether the configuration takes them."""
    rng = np.random.RandomState(0)
    draws = [draw(sweep, rng) for _ in range(number)]
    return [Point(i, values, {**sweep.settings, **values}) for i, values in enumerate(draws)]


def draw(sweep: Sweep, rng: np.random.RandomState) -> dict[str, Any]:
    """Return one draw from every random domain, as plain numbers and text."""
    return {key: plain(domain.sample(random_state=rng)) for key, domain in sweep.space.items() if not is_grid(domain)}


def seeded(point: Point, sweep: Sweep, seed: int, base: RunConfig) -> dict[str, Any]:
    """Return a point's settings with a seed; each seed draws its own labelled images, counted from the config's."""
    moved = {key: seed for key in sweep.seed_keys}
    if "data.split_seed" in moved:
        moved["data.split_seed"] = base.data.split_seed + seed
    return {**point.overrides, **moved}


def _keys(point: Point) -> set[str]:
    """Return the dotted keys that a point sets, those within whole sections included."""
    return set(flat(dict(point.overrides)))


def _name(point: Point) -> str:
    values = ", ".join(f"{key}={json.dumps(value)}" for key, value in point.values.items())
    return f"point {point.number} of the search ({values})"


def _settings(sweep: Sweep, samples: int, seed: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    if sweep.variants:
        for name, settings in sweep.variants.items():
            yield {"variant": name}, dict(settings)
        return
    rng = np.random.RandomState(seed)
    grids = {key: domain["grid_search"] for key, domain in sweep.space.items() if is_grid(domain)}
    is_random = len(grids) < len(sweep.space)
    for _ in range(samples if is_random else 1):
        for cell in itertools.product(*grids.values()):
            chosen = dict(zip(grids, cell, strict=True)) | draw(sweep, rng)
            values = {key: chosen[key] for key in sweep.space}
            yield values, dict(values)


def plain(value: Any) -> Any:
    """Return a drawn value as JSON has it."""
    value = value.item() if isinstance(value, np.generic) else value
    return float(f"{value:.10g}") if isinstance(value, float) else value  # quniform's 0.7000000000000001
