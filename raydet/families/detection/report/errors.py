"""Errors by kind, and what each kind costs: TIDE's bars, of one run and of several side by side."""

from __future__ import annotations

from collections.abc import Sequence

from raydet.families.detection.report.inputs import Inputs
from raydet.families.detection.tide import KINDS, NAMES
from raydet.metrics import Record
from raydet.report.common import NO_EVALUATION, mean
from raydet.report.compare.runs import Compared
from raydet.report.figures import bars
from raydet.report.page import Pictures, Section, grid, paragraph, table
from raydet.text import percent

TITLE = "Errors by kind"
LEAD = (
    "What AP50 gains if the errors of one kind were mended, in points (TIDE, Bolya et al. 2020). Cls: right place, "
    "wrong class. Loc: right class, IoU 0.1 to 0.5. Both: wrong class, badly placed. Dupe: found already. Bkg: nothing "
    "is there. Miss: not found. FalsePos: all wrong detections; FalseNeg: all boxes that were not found. Gains "
    "overlap, so they do not add up."
)
CAPTION = "Gain of AP50 by kind of error, in points."
UNKNOWN = "The evaluations of {} hold no errors by kind: they are older, or not every class was looked for (LVIS)."


def section(run: Inputs, pictures: Pictures) -> Section:
    """Show what the newest evaluation of each model says."""
    newest = {f"{record['model']}, step {record['step']}": record for record in _last(run.kind("eval"))}
    if not newest:
        return Section(TITLE, [paragraph(NO_EVALUATION, "absent")])
    gains = {name: _gains(record) for name, record in newest.items() if record.get("tide")}
    if not gains:
        return Section(TITLE, [paragraph(UNKNOWN.format("this run"), "absent")])
    rows = [(f"{name}: points of AP50", *map(percent, values)) for name, values in gains.items()]
    for name, record in newest.items():
        counts = (record.get("tide") or {}).get("counts")
        if counts:
            rows.append((f"{name}: number", *(f"{counts[kind]:,}" for kind in KINDS), "", ""))
    figure = pictures.figure("errors.png", _drawn(gains), CAPTION)
    return Section(TITLE, [paragraph(LEAD), grid([figure]), table(["model", *NAMES], rows)])


def compared_section(compared: Compared, pictures: Pictures) -> Section:
    """Show the last evaluation of each kind of run side by side, means over its runs."""
    gains: dict[str, list[float | None]] = {}
    without: list[str] = []
    for arm in compared.arms:
        own = [_gains(run.judged[-1]) for run in arm.runs if run.judged[-1].get("tide")]
        if own:
            gains[arm.name] = [mean(values) for values in zip(*own, strict=True)]
        if len(own) < len(arm.runs):
            without += [compared.names[run.folder] for run in arm.runs if not run.judged[-1].get("tide")]
    absent = [paragraph(UNKNOWN.format(", ".join(without)), "absent")] if without else []
    if not gains:
        return Section(TITLE, absent)
    rows = [(name, *map(percent, values)) for name, values in gains.items()]
    figure = pictures.figure("compare_errors.png", _drawn(gains), CAPTION)
    return Section(TITLE, [paragraph(LEAD), *absent, grid([figure]), table(["", *NAMES], rows)])


def _last(evaluations: Sequence[Record]) -> list[Record]:
    """Return the newest evaluation of each model."""
    return list({record["model"]: record for record in evaluations}.values())


def _gains(record: Record) -> list[float | None]:
    return [record["tide"]["gains"].get(name) for name in NAMES]


def _drawn(gains: dict[str, list[float | None]]) -> bytes:
    points = {name: [None if each is None else 100 * each for each in values] for name, values in gains.items()}
    return bars(points, NAMES, y_label="gain of AP50")
