"""The sections of the page that compares runs. Imports matplotlib."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

from raydet.metrics import Record, headline, mode_of
from raydet.report.common import evaluations_of, mean, named
from raydet.report.compare.pairs import Pair
from raydet.report.compare.runs import Arm, Compared, meaning
from raydet.report.compare.table import cautions, run_rows, verdicts
from raydet.report.figures import Marks, lines
from raydet.report.page import Pictures, Section, grid, heading, paragraph, table, tiles
from raydet.text import percent, plural, signed_percent

MOST_CURVES = 12  # runs with a name of their own in a plot
MOST_SETTINGS = 60  # rows


def summary(compared: Compared, pictures: Pictures) -> Section:
    """Say what was gained, and list the runs."""
    shown = {
        f"{arm.name} against {compared.baseline}" + (f", {len(paired.differences)} pairs" if paired.sd else ""): (
            signed_percent(paired.mean)
        )
        for arm, paired in compared.paired
    }
    body = [tiles(shown)] if shown else []
    body += [paragraph(f"{text}.", "") for text in verdicts(compared)]
    columns, rows = run_rows(compared)
    lead = (
        f"The last evaluation on {plural(compared.val_images, 'validation image')}, in percent: of the teacher where "
        "there is one, else of the student."
    )
    body += [paragraph(text, "absent") for text in cautions(compared)]
    return Section("The answer", [*body, paragraph(lead), table(columns, rows, first_numeric=5)])


def curves(compared: Compared, pictures: Pictures) -> Section:
    """Show the figures of all runs over their steps, and the mean of those that differ by their seed alone."""
    colors = [compared.arms.index(compared.arm_of(run)) for run in compared.runs]
    marks = Marks(tuple(sorted({end for run in compared.runs for end in run.stage_ends})))
    figures = []
    names = list(headline(compared.runs[0].judged[-1]))[:2]
    for name in [each for each in names if mode_of(each) == mode_of(names[0])]:  # not 1 - accuracy
        said = named(compared.runs[0], name)
        own = {compared.names[run.folder]: evaluations_of(run, name) for run in compared.runs}
        caption = f"{_capital(said)} on the validation images, in percent" + (
            "; runs of one colour differ by their seed." if len(compared.arms) < len(compared.runs) else "."
        )
        if len(own) <= MOST_CURVES:
            plot = lines(own, y_label=f"{said} (%)", marks=marks, smooth=False, colors=colors)
            figures.append(pictures.figure(f"compare_{name}.png", plot, caption))
        if any(len(arm.runs) > 1 for arm in compared.arms):
            means = {arm.name: _mean_curve(arm, name) for arm in compared.arms}
            drawn = {arm: (x, y) for arm, (x, y, _) in means.items() if x}
            spread = {arm: sd for arm, (x, _, sd) in means.items() if x}
            plot = lines(drawn, y_label=f"{said} (%)", marks=marks, smooth=False, spread=spread)
            caption = f"{_capital(said)}: mean over seeds, and their standard deviation (band)."
            figures.append(pictures.figure(f"compare_{name}_mean.png", plot, caption))
    lead = "Dotted lines mark where runs change their nature, such as the end of the burn-in." if marks.major else ""
    return Section("Curves", [paragraph(lead), grid(figures)])


def by_class(compared: Compared, pictures: Pictures) -> Section:
    """List the deciding figure of every class, and the paired differences."""
    title, name = "By class", compared.figure
    last = {run.folder: run.judged[-1].get("per_class", {}) for run in compared.runs}
    if not any(last.values()):
        return Section(title, [paragraph("The evaluations of these runs say nothing about single classes.", "absent")])
    paired = [(arm, [pair for pair in compared.pairs if pair.run in arm.runs]) for arm, _ in compared.paired]
    columns = ["class", *(_with_number(arm) for arm in compared.arms), *(f"gain of {arm.name}" for arm, _ in paired)]
    rows = []
    for each in compared.class_names:
        cells = [percent(mean([last[run.folder].get(each, {}).get(name) for run in arm.runs])) for arm in compared.arms]
        cells += [signed_percent(mean([pair.of_class(each) for pair in pairs])) for _, pairs in paired]
        rows.append([each, *cells])
    said = named(compared.runs[0], name)
    lead = f"{_capital(said)} in percent at the last evaluation, mean over runs; a dash: it is undefined."
    if paired:
        lead += f" Gains are paired differences to {compared.baseline}, mean over pairs."
    return Section(title, [paragraph(lead), table(columns, rows)])


def pairs(compared: Compared, pictures: Pictures) -> Section:
    """List every pair, and mean and spread over them."""
    name = compared.figure
    columns = ["run", "against", "in common", "seed", "step", f"{name} against", name, "difference"]
    body = []
    for arm, paired in compared.paired:
        own = [pair for pair in compared.pairs if pair.run in arm.runs]
        rows = [
            [
                compared.names[pair.run.folder],
                compared.names[pair.control.folder],
                pair.shared,
                str(pair.run.config.seed),
                str(pair.gain.step),
                percent(pair.gain.theirs[name]),
                percent(pair.gain.ours[name]),
                signed_percent(pair.gain.difference),
            ]
            for pair in own
        ]
        if paired.sd is not None:
            means = [mean([record[name] for record in column]) for column in _figures_of(own)]
            spread = f"{signed_percent(paired.mean)} ± {100 * paired.sd:.1f}"
            rows.append(["mean, ± standard deviation", "", "", "", "", *map(percent, means), spread])
        body += [heading(arm.name), table(columns, rows, first_numeric=3)]
    lead = "A pair has its beginning in common, so that what differs is the method, not the luck of the draw."
    return Section("Pairs", [paragraph(lead), *body])


def settings(compared: Compared, pictures: Pictures) -> Section:
    """List the settings that runs differ by, beside their seed."""
    title, tables = "Settings that differ", [meaning(arm.runs[0]) for arm in compared.arms]
    keys = dict.fromkeys(key for each in tables for key in each)
    different = [key for key in keys if len({json.dumps(each.get(key, "–")) for each in tables}) > 1]
    if not different:
        return Section(
            title, [paragraph("None but the seed and what only decides where and how fast a run is trained.")]
        )
    rows = [[key, *(_value(each.get(key, "–")) for each in tables)] for key in different[:MOST_SETTINGS]]
    more = len(different) - len(rows)
    body = [table(["", *(arm.name for arm in compared.arms)], rows)]
    return Section(title, [*body, *([paragraph(f"And {more} more.")] if more else [])])


def _mean_curve(arm: Arm, name: str) -> tuple[list[float], list[float | None], list[float | None]]:
    """Return steps that all runs of an arm were evaluated at, the mean there, and the standard deviation."""
    curves_ = [dict(zip(*evaluations_of(run, name), strict=True)) for run in arm.runs]
    steps = sorted(set.intersection(*(set(curve) for curve in curves_)))
    values = [[value for curve in curves_ if (value := curve[step]) is not None] for step in steps]
    means = [statistics.fmean(each) if each else None for each in values]
    return steps, means, [statistics.stdev(each) if len(each) > 1 else 0.0 for each in values]


def _figures_of(own: Sequence[Pair]) -> tuple[list[Record], list[Record]]:
    return [pair.gain.theirs for pair in own], [pair.gain.ours for pair in own]


def _with_number(arm: Arm) -> str:
    return f"{arm.name}, {len(arm.runs)} runs" if len(arm.runs) > 1 else arm.name


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
