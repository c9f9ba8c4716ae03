"""What a search has found, read from its folder and written down: a row per trial, a summary per point, the best one.

Figures are shares as in metrics.jsonl (AP 0.25 is 25 %). A trial's figure is that of its last evaluation on val, by its
teacher where the run has one; a point's is the mean over the seeds that are done. Missing, running and failed trials
have rows too.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from raydet.files import replacing, write_text
from raydet.metrics import FILE_NAME
from raydet.settings import dump, resolve
from raydet.sweep.definition import SweepDefinition, read_definition
from raydet.sweep.folder import SweepFolder, Trial
from raydet.sweep.trial_metrics import TrialMetrics
from raydet.text import percent_with_spread

SHOWN = 20  # points that the terminal lists


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial: its record and what its metrics file says."""

    trial: Trial
    metrics: TrialMetrics
    metric: str
    mode: str

    @property
    def state(self) -> str:
        """Return waiting, burn-in, running, done, stopped (by the scheduler) or failed."""
        return self.trial.state

    @property
    def values(self) -> dict[str, Any]:
        """Return swept key -> value."""
        return self.trial.values

    @property
    def figure(self) -> float | None:
        """Return the last value of the search's metric, None before the first."""
        return self.metrics.newest().get(self.metric)

    @property
    def best(self) -> tuple[int, float] | None:
        """Return step and value of the best evaluation, the earliest of equals; None before the first."""
        known = [(step, value) for step, value in self.metrics.curve(self.metric) if value is not None]
        sign = 1 if self.mode == "max" else -1
        return max(known, key=lambda each: (sign * each[1], -each[0]), default=None)


@dataclass(frozen=True, slots=True)
class PointSummary:
    """One point over its seeds."""

    number: int
    values: dict[str, Any]
    rows: tuple[TrialRow, ...]
    mean: float | None  # over the trials that are done; None where none is
    sd: float | None  # sample standard deviation; None below two
    num_done: int

    @property
    def is_whole(self) -> bool:
        """Whether every seed is done."""
        return self.num_done == len(self.rows)


def collect(folder: Path) -> list[TrialRow]:
    """Return a row per trial, in order of point and seed, whatever state it is in."""
    definition, home = read_definition(folder), SweepFolder(folder)
    rows = []
    for trial in home.all_trials():
        try:
            metrics = TrialMetrics.read(home.run_dir(trial.id) / FILE_NAME)
        except ValueError as damage:  # one trial's damage is no reason to lose the others' figures
            metrics, trial = TrialMetrics(), replace(trial, message=f"its figures cannot be read: {damage}")
        rows.append(TrialRow(trial, metrics, definition.metric, definition.mode))
    return sorted(rows, key=lambda row: (row.trial.point, row.trial.seed, row.trial.id))


def summarise_points(rows: Sequence[TrialRow]) -> list[PointSummary]:
    """Return the points of a search in order, with mean and spread over their seeds."""
    by_point: dict[int, list[TrialRow]] = {}
    for row in rows:
        by_point.setdefault(row.trial.point, []).append(row)
    return [_summarised(number, of_point) for number, of_point in sorted(by_point.items())]


def best_point(points: Sequence[PointSummary], mode: str) -> PointSummary | None:
    """Return the point with the best mean, the first of equals; None while no trial is done.

    A point of which not every seed is done takes part; see `PointSummary.is_whole`.
    """
    sign = 1 if mode == "max" else -1
    known = [(sign * point.mean, -point.number, point) for point in points if point.mean is not None]
    return max(known, key=lambda each: each[:2])[2] if known else None


def figure_of(run: Path, metric: str) -> float | None:
    """Return the newest val figure of a trial's run folder, None where there is none or the file is damaged."""
    try:
        figure: float | None = TrialMetrics.read(run / FILE_NAME).newest().get(metric)
        return figure
    except ValueError:
        return None


def write_results(folder: Path) -> str:
    """Write results.csv, results.parquet and best.yaml into a search's folder; return what to tell the user.

    best.yaml is the base configuration with what the best point's seeds have in common, for a run in FOLDER/best. There
    is none while no trial is done.
    """
    definition, rows = read_definition(folder), collect(folder)
    points = summarise_points(rows)
    best = best_point(points, definition.mode)
    table = as_table(definition, rows)
    with replacing(folder / "results.csv") as csv, replacing(folder / "results.parquet") as parquet:
        pyarrow.csv.write_csv(table, csv)
        pyarrow.parquet.write_table(table, parquet)
    if best is not None:
        write_text(folder / "best.yaml", best_config(definition, best))
    return "\n".join(describe(definition, points, best))


def as_table(definition: SweepDefinition, rows: Sequence[TrialRow]) -> pa.Table:
    """Return a row per trial; figures are shares, lists and other values that are no plain column are JSON text."""
    metric = definition.metric
    figures = dict.fromkeys((metric, *definition.base.figures[:3]))
    lines = []
    for row in rows:
        newest, best = row.metrics.newest(), row.best
        lines.append(
            {"id": row.trial.id, "point": row.trial.point, "seed": row.trial.seed}
            | {key: row.values.get(key) for key in definition.keys}
            | {"state": row.state, "step": row.metrics.step}
            | {name: newest.get(name) for name in figures}
            | {f"best_{metric}": best and best[1], "best_step": best and best[0]}
            | {"seconds": row.metrics.seconds, "message": row.trial.message}
        )
    names = list(lines[0]) if lines else []
    return pa.table({name: _column([line[name] for line in lines]) for name in names})


def best_config(definition: SweepDefinition, best: PointSummary) -> str:
    """Return the YAML of the best point, with a comment that says which it is."""
    shared = dict(best.rows[0].trial.overrides)
    for row in best.rows[1:]:  # without what sets the seed
        shared = {key: value for key, value in shared.items() if row.trial.overrides.get(key) == value}
    config = resolve(definition.base.model_dump(mode="json"), {**shared, "run.dir": str(definition.folder / "best")})
    seeds = ", ".join(str(row.trial.seed) for row in best.rows if row.state == "done")
    values = json.dumps(best.values)
    comment = (
        f"# raydet tune {json.dumps(definition.name)}: point {best.number}, {values}\n"
        f"# {definition.metric} on val: {figure_text(best)}; seeds that are done: {seeds}\n"
    )
    return comment + dump(config)


def describe(definition: SweepDefinition, points: Sequence[PointSummary], best: PointSummary | None) -> list[str]:
    """Return the summary of a search as lines for a terminal: the points best first, then what was written where."""
    ranked = sorted(points, key=lambda p: (p.mean is None, -definition.sign * (p.mean or 0.0), p.number))
    spread = ", mean ± standard deviation of the seeds" if len(definition.seeds) > 1 else ""
    lines = [f"{definition.metric} on val in percent ({definition.mode} is best){spread}:"]
    lines += [f"  {point_text(definition, point)}: {figure_text(point)}" for point in ranked[:SHOWN]]
    if len(ranked) > SHOWN:
        lines.append(f"  ... and {len(ranked) - SHOWN} more")
    lines.append(f"all trials: {definition.folder / 'results.csv'} (and .parquet)")
    if best is None:
        return [*lines, "no trial is done, so there is no best configuration"]
    return [*lines, f"the best point: raydet train {definition.folder / 'best.yaml'}"]


def point_text(definition: SweepDefinition, point: PointSummary) -> str:
    """Return e.g. `point 3 (unsup_reg_weight=0.5)`."""
    return f"point {point.number} ({definition.named(point.values)})"


def mean_text(point: PointSummary) -> str:
    """Return mean and spread in percent; the trials' states where none is done."""
    if point.mean is None:
        return " and ".join(sorted({row.state for row in point.rows}))
    return percent_with_spread(point.mean, point.sd)


def figure_text(point: PointSummary) -> str:
    """Return mean and spread, and how many seeds they come from where there are several."""
    if point.mean is None or len(point.rows) == 1:
        return mean_text(point)
    return f"{mean_text(point)} ({point.num_done} of {len(point.rows)} seeds)"


def _summarised(number: int, rows: Sequence[TrialRow]) -> PointSummary:
    done = [row.figure for row in rows if row.state == "done" and row.figure is not None]
    mean = statistics.fmean(done) if done else None
    sd = statistics.stdev(done) if len(done) > 1 else None
    return PointSummary(number, rows[0].values, tuple(rows), mean, sd, len(done))


def _column(values: list[Any]) -> pa.Array:
    known = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in known):
        return pa.array(values, pa.bool_() if known else pa.null())
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        is_whole = all(isinstance(value, int) for value in known)
        return pa.array(values, pa.int64() if is_whole else pa.float64())
    return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])
