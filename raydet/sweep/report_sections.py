"""The sections of a search's report that are made of words and tables."""

from __future__ import annotations

import statistics
from collections import Counter

from raydet.report.page import Pictures, Section, folded, paragraph, settings, table, tiles
from raydet.settings import dump
from raydet.sweep.definition import value_text
from raydet.sweep.report_inputs import NOTHING_YET, SweepInputs
from raydet.sweep.results import mean_text
from raydet.text import duration, percent, plural

MESSAGE_LETTERS = 2000


def summary(found: SweepInputs, pictures: Pictures) -> Section:
    """Say what was asked, what is best, and how far the search is."""
    definition, best = found.definition, found.best
    states = Counter(row.state for row in found.rows)
    figures = {}
    if best is not None:
        seeds = f", mean of {best.num_done} seeds" if best.num_done > 1 else ""
        figures[f"best {definition.metric} (%){seeds}"] = mean_text(best)
        figures["best point"] = f"no. {best.number}"
    figures |= {state: str(number) for state, number in sorted(states.items())}
    figures["points"] = str(len(found.points))
    figures["work, in all"] = duration(sum(row.metrics.seconds for row in found.rows) + _shared_seconds(found))
    names = definition.short_names()
    rows = [(f"best {names[key]}", value_text(best.values.get(key))) for key in definition.keys] if best else []
    rows += [
        ("judged by", f"last val {definition.metric}, {definition.mode} is best"),
        ("seeds", ", ".join(map(str, definition.seeds))),
        ("scheduler", definition.scheduler),
    ]
    body = [paragraph(definition.text), tiles(figures), settings(rows)]
    if best is None:
        body.append(paragraph("No trial is done, so no point can be called best.", "absent"))
    elif not best.is_whole:
        body.append(paragraph(f"Only {best.num_done} of the best point's {len(best.rows)} seeds are done.", "alarm"))
    if len(definition.seeds) == 1:
        body.append(paragraph("One seed per point: nothing here says how much of a difference is chance."))
    return Section("Summary", [*body, folded("The configuration that the search varies", dump(definition.base))])


def point_table(found: SweepInputs, pictures: Pictures) -> Section:
    """List every point: one key in the order of the search, several with the best point first."""
    definition = found.definition
    names = definition.short_names()
    points = list(found.points)
    if len(definition.keys) > 1:
        points.sort(key=lambda p: (p.mean is None, -definition.sign * (p.mean or 0.0), p.number))
    # Figures first: a wide table is cut off on the right.
    columns = ["point", definition.metric, "sd", "seeds done", "best on the way", *names.values()]
    rows = []
    for point in points:
        on_the_way = [row.best[1] for row in point.rows if row.state == "done" and row.best is not None]
        rows.append(
            (
                f"{point.number}, best" if point is found.best else str(point.number),
                percent(point.mean, 2),
                percent(point.sd, 2),
                f"{point.num_done} of {len(point.rows)}",
                percent(statistics.fmean(on_the_way) if on_the_way else None, 2),
                *(value_text(point.values.get(key)) for key in definition.keys),
            )
        )
    lead = (
        f"{definition.metric} in percent at the end of the trials that are done, mean and standard deviation over "
        f"seeds. 'Best on the way' is the mean of each seed's best evaluation, which flatters: it was chosen on val."
    )
    return Section("Points", [paragraph(lead), table(columns, rows)])


def failures(found: SweepInputs, pictures: Pictures) -> Section:
    """List the trials that failed or were stopped, with their messages."""
    failed = [row for row in found.rows if row.state == "failed"]
    body = [
        paragraph(f"Trial {row.trial.id}, step {row.metrics.step}: {row.trial.message[:MESSAGE_LETTERS]}", "alarm")
        for row in failed
    ]
    if failed:
        body.append(paragraph("raydet tune ... --resume --retry-failed tries them again."))
    return Section("Failures", body or [paragraph("No trial has failed.")])


def trial_table(found: SweepInputs, pictures: Pictures) -> Section:
    """List every trial."""
    names, metric = found.definition.short_names(), found.definition.metric
    columns = ["trial", "state", metric, "best", "at step", "step", "time", "seed", *names.values()]
    rows = []
    for row in found.rows:
        best = row.best
        rows.append(
            (
                row.trial.id,
                row.state,
                percent(row.figure, 2),
                percent(best[1] if best else None, 2),
                str(best[0]) if best else "–",
                str(row.metrics.step),
                duration(row.metrics.seconds),
                str(row.trial.seed),
                *(value_text(row.values.get(key)) for key in found.definition.keys),
            )
        )
    return Section(
        "Trials", [paragraph("The same, and more, is in results.csv and results.parquet."), table(columns, rows)]
    )


def times(found: SweepInputs, pictures: Pictures) -> Section:
    """Show how long burn-ins and trials took, and what sharing burn-ins saved."""
    shared = [burn_in.seconds for burn_in in found.burn_ins if burn_in.seconds]
    own = [row.metrics.burn_in_seconds for row in found.rows if row.metrics.burn_in_seconds]
    after = [row.metrics.seconds - row.metrics.burn_in_seconds for row in found.rows if row.metrics.seconds]
    rows = [
        (name, str(len(seconds)), duration(statistics.fmean(seconds)), duration(sum(seconds)))
        for name, seconds in (
            ("shared burn-ins", shared),
            ("trials' own burn-ins", own),
            ("trials after the burn-in", after),
        )
        if seconds
    ]
    if not rows:
        return Section("Time", [paragraph(NOTHING_YET, "absent")])
    body = [table(["", "number", "each, on average", "in all"], rows)]
    users = sum(row.trial.burn_in is not None and row.metrics.seconds > 0 for row in found.rows)
    if shared and users > len(shared):
        saved = (users - len(shared)) * statistics.fmean(shared)
        started = f"{plural(users, 'trial')} started from {plural(len(shared), 'shared burn-in')}"
        body.append(paragraph(f"{started}; that saved {duration(saved)}."))
    lead = "Time at work of the training processes, attempts added up; trials at the same time count side by side."
    return Section("Time", [paragraph(lead), *body])


def _shared_seconds(found: SweepInputs) -> float:
    return sum(burn_in.seconds for burn_in in found.burn_ins)
