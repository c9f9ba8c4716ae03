"""What the report of every run is made of, whatever it trains: tiles, messages, settings, curves; the speed section."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from raydet.metrics import Record, headline, losses_of, seconds_at_work
from raydet.report.figures import Marks, Series, lines
from raydet.report.inputs import RunRecords
from raydet.report.page import Pictures, Section, folded, grid, paragraph, settings
from raydet.settings import dump
from raydet.text import duration, percent, plural

Curve = tuple[list[float], list[float | None]]  # steps, values
NO_FIGURES = "No figures were written yet."
NO_EVALUATION = "There was no evaluation: the run has no data.val, or it is too young."
MESSAGES = 10  # the newest so many of a kind
NAMES = {"sup": "labelled", "unsup": "unlabelled"}


def named(run: RunRecords, name: str) -> str:
    """Return what people call a figure, a loss, or the images that a loss is about: `RunConfig.spoken`."""
    return run.config.spoken.get(name, NAMES.get(name, name))


def progress(run: RunRecords) -> dict[str, str]:
    """Return tiles: how far the run is, how it ended, and the newest figures of its models."""
    done = max((record["step"] for record in run.records), default=0)
    tiles = {f"of {plural(run.config.length, 'step')}": str(done), "status": _status(run)}
    newest = {record["model"]: record for record in run.kind("eval")}
    for model in ("teacher", "student"):
        figures = headline(newest[model]) if model in newest else {}
        tiles |= {f"{model} {named(run, name)}": share(name, value) for name, value in figures.items()}
    return tiles


def share(name: str, value: float | None) -> str:
    """Return a figure in percent, with the sign where people write it: AP has none."""
    return percent(value) if value is None or name.startswith("AP") else f"{percent(value)} %"


def elapsed(run: RunRecords) -> dict[str, str]:
    """Return a tile: how long the run's attempts took together."""
    return {"time": duration(seconds_at_work(run.records))} if run.records else {}


def messages(run: RunRecords) -> list[str]:
    """Return the newest alarms, figures that are not finite, and notes."""
    odd = [each for each in run.kind("step") if "nonfinite" in each]
    return [
        *(paragraph(f"Step {each['step']}: {each['message']}", "alarm") for each in run.kind("alarm")[-MESSAGES:]),
        *(
            paragraph(f"Step {each['step']}: not finite: {', '.join(each['nonfinite'])}", "alarm")
            for each in odd[-MESSAGES:]
        ),
        *(paragraph(f"Step {each['step']}: {each['message']}") for each in run.kind("note")[-MESSAGES:]),
    ]


def settings_of(run: RunRecords, own: Sequence[tuple[str, str]]) -> list[str]:
    """Return the settings that matter most, with the family's `own` ones, and all of them behind a line."""
    return [settings(_settings(run, own)), folded("The whole configuration", dump(run.config))]


def loss_curves(run: RunRecords) -> dict[str, Curve]:
    """Return the weighted training loss: in all, and of each kind of images or stage over the steps that have it."""
    found = curves(run, {"total": "loss"})
    for source in dict.fromkeys(source for source, _ in loss_names(run)):
        names = [f"loss/{each}/{name}/weighted" for each, name in loss_names(run) if each == source]
        # Exactly 0 is a loss at the steps of other stages.
        found |= {
            label: (steps, [value or None for value in values])
            for label, (steps, values) in summed(run, named(run, source), names).items()
        }
    return found


def loss_names(run: RunRecords) -> list[tuple[str, str]]:
    """Return (images or stage, name) of every loss that was ever written."""
    return list(dict.fromkeys(loss for record in run.kind("step") for loss in losses_of(record)))


def speed(run: RunRecords, pictures: Pictures) -> Section:
    """Show throughput, waits and label age."""
    if not run.kind("step"):
        return Section("Speed, waits and label age", [paragraph(NO_FIGURES, "absent")])
    seconds = {"step": "step_s", "wait for images": "data_wait_s", "wait for labels": "label_wait_s"}
    rate = curves(run, {"images/s": "images_per_s"})
    figures = [
        plot(run, pictures, "speed.png", rate, "images per second", "Training throughput, all workers together."),
        plot(run, pictures, "waits.png", curves(run, seconds), "seconds per step", "Where the time of a step goes."),
    ]
    ages = _ages(run)
    if any(value for _, values in ages.values() for value in values):
        caption = "Age of the pseudo-labels when they were used."
        if run.repredictions:
            caption = "Age of the predictions that pseudo-labels start from, when they were taken over."
        figures.append(plot(run, pictures, "age.png", ages, "age (steps)", caption))
    fresh = [paragraph("Every pseudo-label was used in the step that its teacher was from: age 0.")] if ages else []
    return Section("Speed, waits and label age", [*([] if len(figures) > 2 else fresh), grid(figures)])


def _ages(run: RunRecords) -> dict[str, Curve]:
    """Return the ages of labels, with gaps at steps that took none."""
    idle = {record["step"] for record in run.kind("step") if record.get("pseudo/repredicted") == 0}
    found = curves(run, {"oldest": "labels/age_max", "mean": "labels/age_mean"})
    return {
        name: (steps, [None if step in idle else value for step, value in zip(steps, values, strict=True)])
        for name, (steps, values) in found.items()
    }


def curves(run: RunRecords, names: dict[str, str]) -> dict[str, Curve]:
    """Return label -> (steps, values) for the metrics that occur at all; `names` maps labels to metrics."""
    found = {}
    for label, name in names.items():
        records = [record for record in run.kind("step") if name in record]
        if records:
            found[label] = ([float(record["step"]) for record in records], [record[name] for record in records])
    return found


def summed(run: RunRecords, label: str, names: Sequence[str]) -> dict[str, Curve]:
    """Return the sum of several metrics as one curve; nothing where none of them was written."""
    records = [record for record in run.kind("step") if any(record.get(name) is not None for name in names)]
    if not records:
        return {}
    sums: list[float | None] = [sum(record.get(name) or 0.0 for name in names) for record in records]
    return {label: ([float(record["step"]) for record in records], sums)}


def evaluations(run: RunRecords, figure: str) -> dict[str, Curve]:
    """Return model -> (steps, values in percent)."""
    found: dict[str, Curve] = {}
    for record in run.kind("eval"):
        x, y = found.setdefault(record["model"], ([], []))
        x.append(record["step"])
        y.append(times(100, record.get(figure)))
    return found


def evaluations_of(run: RunRecords, figure: str, factor: float = 100) -> Curve:
    """Return (steps, values times `factor`: percent) of the model that the run is judged by."""
    return [float(each["step"]) for each in run.judged], [times(factor, each.get(figure)) for each in run.judged]


def plot(
    run: RunRecords, pictures: Pictures, name: str, series: Series, y_label: str, caption: str, **options: Any
) -> str:
    """Return a figure of curves over the steps, with the run's stages marked; `options` as for `lines`."""
    content = lines(series, y_label=y_label, marks=marks_of(run), **options)
    return pictures.figure(name, content, caption)


def marks_of(run: RunRecords) -> Marks:
    """Return the run's stages and repredictions as marks of a plot."""
    return Marks(run.stage_ends, run.repredictions)


def times(factor: float, value: float | None) -> float | None:
    """Return the product, None for None."""
    return None if value is None else factor * value


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are known, None where none is."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _status(run: RunRecords) -> str:
    """Return done, failed, ... as the last attempt said, or that it has not said anything."""
    last: Record = next((each for each in reversed(run.records) if each["kind"] in ("start", "end")), {})
    if last.get("kind") == "end":
        return str(last["reason"])
    return "running or killed" if last else "not started"


def _settings(run: RunRecords, own: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    config = run.config
    rows: list[tuple[str, str]] = [("method", config.method.name), *own]
    if run.num_unlabeled is not None:
        rows += [("unlabelled images", str(run.num_unlabeled))]
    optim, labels = config.optim, config.labels
    rows += [
        (
            "batch",
            f"{optim.labeled_batch} {config.data.kind_of_images}"
            + f" + {optim.unlabeled_batch} unlabelled" * config.uses_labels,
        ),
        ("learning rate", f"{optim.lr:g} ({optim.name})"),
        ("seed", str(config.seed)),
    ]
    if config.uses_labels:
        publish = "" if run.repredictions else f", publish every {labels.publish_every}"
        rows += [("labels", f"{labels.source}, lookahead {labels.lookahead}{publish}")]
    starts = run.kind("start")
    if starts:
        begun = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(starts[0]["time"]))
        rows += [("begun", begun), ("attempts", str(len(starts))), ("workers", str(starts[-1].get("world", "–")))]
        rows += [("parameters", f"{starts[-1]['num_params'] / 1e6:.1f} M")] if "num_params" in starts[-1] else []
    return rows + [(f"method.{key}", str(value)) for key, value in config.method if key != "name" and _is_plain(value)]


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)
