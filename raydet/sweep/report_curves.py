"""The sections of a search's report that are made of plots."""

from __future__ import annotations

import statistics
from typing import Any

from raydet.metrics import FILE_NAME
from raydet.report.page import Pictures, Section, grid, paragraph, table
from raydet.sweep.definition import value_text
from raydet.sweep.folder import SweepFolder
from raydet.sweep.report_inputs import NOTHING_YET, SweepInputs
from raydet.sweep.report_plots import LearningCurve, Mean, Scale, beside, effect, grid_map, learning
from raydet.sweep.results import PointSummary, TrialRow
from raydet.sweep.trial_metrics import step_curve
from raydet.text import percent_with_spread, plural


def effects(found: SweepInputs, pictures: Pictures) -> Section:
    """Show the figure against each swept key."""
    title, keys = f"{found.definition.metric} against each key", found.definition.keys
    shown = [row for row in found.rows if row.figure is not None and row.state in ("done", "stopped")]
    if not shown:
        return Section(title, [paragraph(NOTHING_YET, "absent")])
    figures = []
    for number, key in enumerate(keys):
        scale = _scale(found, key)
        dots: dict[str, list[tuple[Any, float]]] = {"done": [], "stopped": []}
        for row in shown:
            dots[row.state].append((row.values.get(key), 100 * (row.figure or 0.0)))
        content = effect(scale, dots["done"], dots["stopped"], _means(found, key, scale), found.y_label)
        figures.append(pictures.figure(f"effect_{number}.png", content, f"{found.y_label} against {key}."))
    lead = (
        "A dot per trial, the seeds of a point above each other; the line joins the means, with the spread over seeds."
    )
    if len(keys) > 1:
        lead += (
            " The other keys vary along: a mean is over all of their values, and missing where values do not repeat."
        )
    return Section(title, [paragraph(lead), grid(figures)])


def beside_the_paper(found: SweepInputs, pictures: Pictures) -> Section:
    """Show the search's curve and the paper's, each as differences to its own mean."""
    published = found.definition.published
    assert published is not None
    title = f"Beside {published.source}"
    pairs = []
    for point in found.judged:
        theirs = published.at(point.values)
        if theirs is not None:
            pairs.append((point, 100 * (point.mean or 0.0), theirs))
    if len(pairs) < 2:
        missing = f"Fewer than two points are both in {published.source} and done, so there is no curve to compare."
        return Section(title, [paragraph(missing, "absent")])
    our_mean, their_mean = statistics.fmean(p[1] for p in pairs), statistics.fmean(p[2] for p in pairs)
    key = found.definition.keys[0]
    ours: list[Mean] = [(p.values[key], mean - our_mean, None if p.sd is None else 100 * p.sd) for p, mean, _ in pairs]
    theirs_curve: list[Mean] = [(p.values[key], figure - their_mean, None) for p, _, figure in pairs]
    curves = {"this search": ours, published.source: theirs_curve}
    plot = beside(_scale(found, key), curves, f"{found.definition.metric}, difference to own mean (points)")
    rows = [
        (
            value_text(p.values[key]),
            percent_with_spread(p.mean or 0.0, p.sd, 2),
            f"{figure:.2f}",
            f"{mean - our_mean:+.2f}",
            f"{figure - their_mean:+.2f}",
        )
        for p, mean, figure in pairs
    ]
    columns = [found.definition.short_names()[key], "this search", published.source, "this, to mean", "paper, to mean"]
    lead = (
        f"The levels differ, because data, model and length do ({published.figure} there), so each curve is drawn as "
        f"its difference to its own mean over the {plural(len(pairs), 'point')} that both have. The "
        "shapes can be compared."
    )
    caption = "Differences in percent points; bars are the standard deviation over seeds."
    return Section(title, [paragraph(lead), grid([pictures.figure("paper.png", plot, caption)]), table(columns, rows)])


def joint(found: SweepInputs, pictures: Pictures) -> Section:
    """Show how the two keys of a grid act together, as a map."""
    title = "Keys together"
    if not found.judged:
        return Section(title, [paragraph(NOTHING_YET, "absent")])
    x, y = (_scale(found, key) for key in found.definition.keys)
    x_key, y_key = found.definition.keys
    cells = {
        (y.values.index(p.values[y_key]), x.values.index(p.values[x_key])): 100 * (p.mean or 0.0) for p in found.judged
    }
    content = grid_map(x, y, cells, found.y_label)
    caption = f"Mean {found.y_label} of each pair; an empty cell has no trial that is done."
    return Section(title, [grid([pictures.figure("joint.png", content, caption)])])


def learning_curves(found: SweepInputs, pictures: Pictures) -> Section:
    """Show the figure of every trial over its steps."""
    definition, title = found.definition, "Learning curves of all trials"
    curves = []
    for row in found.rows:
        known = [(step, 100 * value) for step, value in row.metrics.curve(definition.metric) if value is not None]
        if known:
            steps, values = zip(*known, strict=True)
            is_best = found.best is not None and row.trial.point == found.best.number
            curves.append(LearningCurve(_label(found, row), steps, values, row.state == "done", is_best))
    if not curves:
        return Section(title, [paragraph(NOTHING_YET, "absent")])
    burn_in = None if "method.burn_in_steps" in definition.keys else definition.base.method.burn_in_steps or None
    content = learning(curves, found.y_label, burn_in)
    caption = (
        f"{found.y_label} on val. Curves are named by {', '.join(definition.keys)}. The best point is drawn thick, "
        f"trials that did not finish are dashed."
    )
    lead = "Trials with a shared burn-in begin at its end." if found.burn_ins else ""
    return Section(title, [paragraph(lead), grid([pictures.figure("learning.png", content, caption)])])


def over_the_run(found: SweepInputs, pictures: Pictures) -> Section:
    """Show the metrics of steps that the search asks for, a curve per trial."""
    title, figures = "Over the run", []
    for number, (name, meaning) in enumerate(found.definition.curves.items()):
        curves = []
        for row in found.rows:
            known = step_curve(SweepFolder(found.definition.folder).run_dir(row.trial.id) / FILE_NAME, name)
            if known:
                steps, values = zip(*known, strict=True)
                is_best = found.best is not None and row.trial.point == found.best.number
                curves.append(LearningCurve(_label(found, row), steps, values, row.state == "done", is_best))
        if curves:
            content = learning(curves, meaning, None)
            caption = f"{meaning} ({name}), means over stretches of steps."
            figures.append(pictures.figure(f"curve_{number}.png", content, caption))
    return Section(title, [grid(figures) if figures else paragraph("No trial has measured this yet.", "absent")])


def _scale(found: SweepInputs, key: str) -> Scale:
    """Return the axis of a swept key over all points."""
    values = [point.values.get(key) for point in found.points]
    return Scale.of(found.definition.short_names()[key], values)


def _label(found: SweepInputs, row: TrialRow) -> str:
    return ", ".join(value_text(row.values.get(key)) for key in found.definition.keys)


def is_grid(found: SweepInputs) -> bool:
    """Return whether two numeric keys were crossed."""
    scales = [_scale(found, key) for key in found.definition.keys] if len(found.definition.keys) == 2 else []
    if not scales or not all(scale.is_numeric and len(scale.values) > 1 for scale in scales):
        return False
    return len(found.points) == len(scales[0].values) * len(scales[1].values)


def _means(found: SweepInputs, key: str, scale: Scale) -> list[Mean]:
    """Return the mean over all points with a value; none where (nearly) every point has a value of its own."""
    if len(found.definition.keys) > 1 and len(scale.values) > len(found.points) / 2:
        return []
    by_place: dict[float, list[PointSummary]] = {}
    for point in found.judged:
        by_place.setdefault(scale.place(point.values.get(key)), []).append(point)
    means: list[Mean] = []
    for points in by_place.values():
        mean = statistics.fmean(100 * (point.mean or 0.0) for point in points)
        sd = points[0].sd if len(found.definition.keys) == 1 else None  # over seeds; other keys would blow it up
        means.append((points[0].values.get(key), mean, None if sd is None else 100 * sd))
    return means
