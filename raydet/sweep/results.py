"""What a search has found, read from its folder: a row per trial, a summary per point, the best point.

Figures are shares as in metrics.jsonl (AP 0.25 is 25 %). A trial's figure is that of its last evaluation on val, by its
teacher where the run has one; a point's is the mean over the seeds that are done. Missing, running and failed trials
have rows too.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydet.config.load import resolve
from raydet.config.run import RunConfig
from raydet.errors import ConfigError
from raydet.metrics import FILE_NAME
from raydet.sweep.course import Course
from raydet.sweep.folder import FORMAT, SweepFolder, Trial
from raydet.sweep.results_files import write_best, write_tables


@dataclass(frozen=True, slots=True)
class PublishedCurve:
    """A paper's figures for the points of a search."""

    source: str
    figure: str  # what was measured there
    points: tuple[tuple[dict[str, Any], float], ...]  # values of the swept keys, figure in percent as papers print it

    def at(self, values: Mapping[str, Any]) -> float | None:
        """Return the figure of a point in percent, None where the paper has none."""
        for known, figure in self.points:
            if all(values.get(key) == value for key, value in known.items()):
                return figure
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What a search asks: sweep.json, as far as its results are concerned."""

    folder: Path
    name: str
    text: str
    metric: str
    mode: str  # max or min
    keys: tuple[str, ...]
    seeds: tuple[int, ...]
    scheduler: str
    published: PublishedCurve | None
    base: RunConfig

    def is_better(self, value: float, than: float) -> bool:
        """Whether a figure beats another one, strictly."""
        return value > than if self.mode == "max" else value < than

    def short_names(self) -> dict[str, str]:
        """Return key -> its last part, the whole key where two end alike."""
        last = [key.rsplit(".", 1)[-1] for key in self.keys]
        return {key: short if last.count(short) == 1 else key for key, short in zip(self.keys, last, strict=True)}


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial: its record and its course."""

    trial: Trial
    course: Course
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
        return self.course.newest().get(self.metric)

    @property
    def best(self) -> tuple[int, float] | None:
        """Return step and value of the best evaluation, the earliest of equals; None before the first."""
        known = [(step, value) for step, value in self.course.curve(self.metric) if value is not None]
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


def read_question(folder: Path) -> Question:
    """Read sweep.json. Raises ConfigError where there is none or it is damaged."""
    file = folder / "sweep.json"
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        if tree["format"] != FORMAT:
            raise ConfigError(f"{file}: format {tree['format']!r}, this raydet reads {FORMAT}")
        said = tree["published"]
        published = said and PublishedCurve(
            str(said["source"]),
            str(said["metric"]),
            tuple((dict(each["values"]), float(each["AP"])) for each in said["points"]),
        )
        names = [str(tree[name]) for name in ("name", "question", "metric", "mode")]
        keys, seeds = tuple(map(str, tree["keys"])), tuple(map(int, tree["seeds"]))
        base = resolve(tree["base"], {}, where=f"{file}, base")
        return Question(folder, *names, keys, seeds, str(tree["scheduler"]), published, base)
    except FileNotFoundError:
        raise ConfigError(f"{folder}: no sweep.json there; give the folder of a search") from None
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: not the description of a search: {type(error).__name__}: {error}") from None


def collect(folder: Path) -> list[TrialRow]:
    """Return a row per trial, in order of point and seed, whatever state it is in."""
    question, home = read_question(folder), SweepFolder(folder)
    rows = [
        TrialRow(trial, Course.read(home.run_dir(trial.id) / FILE_NAME), question.metric, question.mode)
        for trial in home.all_trials()
    ]
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


def best_trial(folder: Path) -> str | None:
    """Return the id of the single trial with the best figure among those that are done, the first of equals."""
    question = read_question(folder)
    best: tuple[float, str] | None = None
    for trial in SweepFolder(folder).all_trials():
        figure = (
            _last_figure(folder / "trials" / trial.id / FILE_NAME, question.metric) if trial.state == "done" else None
        )
        if figure is not None and (best is None or question.is_better(figure, best[0])):
            best = figure, trial.id
    return None if best is None else best[1]


def write_results(folder: Path) -> str:
    """Write results.csv, results.parquet and best.yaml into a search's folder; return what to tell the user."""
    question, rows = read_question(folder), collect(folder)
    points = summarise_points(rows)
    best = best_point(points, question.mode)
    write_tables(question, rows)
    write_best(question, best)
    return "\n".join(describe(question, points, best))


def describe(question: Question, points: Sequence[PointSummary], best: PointSummary | None) -> list[str]:
    """Return the summary of a search as lines for a terminal: the points best first, then what was written where."""
    sign = -1 if question.mode == "max" else 1
    ranked = sorted(points, key=lambda p: (p.mean is None, sign * (p.mean or 0.0), p.number))
    lines = [f"{question.metric} on val, {question.mode} wanted:" if ranked else "no trials"]
    lines += [f"  {point_text(question, point)}: {figure_text(point)}" for point in ranked[:SHOWN]]
    if len(ranked) > SHOWN:
        lines.append(f"  ... and {len(ranked) - SHOWN} more")
    lines.append(f"all trials: {question.folder / 'results.csv'} (and .parquet)")
    if best is None:
        return [*lines, "no trial is done, so there is no best configuration"]
    return [*lines, f"the best point: raydet train {question.folder / 'best.yaml'}"]


SHOWN = 20  # points that the terminal lists


def point_text(question: Question, point: PointSummary) -> str:
    """Return e.g. `point 3 (unsup_reg_weight=0.5)`."""
    names = question.short_names()
    values = ", ".join(f"{names.get(key, key)}={value_text(value)}" for key, value in point.values.items())
    return f"point {point.number} ({values})"


def figure_text(point: PointSummary) -> str:
    """Return mean and spread in percent, and how many seeds they come from where that is worth saying."""
    if point.mean is None:
        states = sorted({row.state for row in point.rows})
        return " and ".join(states)
    spread = "" if point.sd is None else f" ± {100 * point.sd:.1f}"
    seeds = f" ({point.num_done} of {len(point.rows)} seeds)" if not point.is_whole or len(point.rows) > 1 else ""
    return f"{100 * point.mean:.1f}{spread}{seeds}"


def value_text(value: Any) -> str:
    """Return a swept value for people: text as it is, lists with commas, numbers short."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(value_text, value))
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _summarised(number: int, rows: Sequence[TrialRow]) -> PointSummary:
    done = [row.figure for row in rows if row.state == "done" and row.figure is not None]
    mean = statistics.fmean(done) if done else None
    sd = statistics.stdev(done) if len(done) > 1 else None
    return PointSummary(number, rows[0].values, tuple(rows), mean, sd, len(done))


def _last_figure(metrics: Path, metric: str) -> float | None:
    """Return what `Course` would, but look at the evaluations only: a search asks this whenever a trial ends."""
    raise NotImplementedError
