"""The sections of a report that are made from the metrics: summary, curves, AP table, losses, gates, speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from raydet.config.load import dump
from raydet.metrics import Record
from raydet.report.figures import Series, lines, stacked
from raydet.report.inputs import Inputs
from raydet.report.page import Pictures, Section, folded, grid, heading, paragraph, percent, settings, table, tiles

Curve = tuple[list[float], list[float | None]]  # steps, values
LOSSES = ("rpn_cls", "rpn_reg", "roi_cls", "roi_reg", "iou")
NO_FIGURES = "No figures were written yet."
NO_EVALUATION = "There was no evaluation: the run has no data.val, or it is too young."


def summary(run: Inputs, pictures: Pictures) -> Section:
    """Say how the run ended, what it reached, what went wrong, and with which settings."""
    steps, optim = run.kind("step"), run.config.optim
    done = max((record["step"] for record in run.records), default=0)
    figures = {f"of {optim.steps} steps": str(done), "status": _status(run)}
    for model in ("teacher", "student"):
        newest = [record for record in run.kind("eval") if record["model"] == model][-1:]
        for record in newest:
            figures[f"{model} AP"] = percent(record["AP"])
            figures[f"{model} AP50"] = percent(record["AP50"])
    if run.history.windows and (quality := run.history.windows[-1].quality) is not None:
        figures["label precision"] = percent(quality.precision)
        figures["label recall"] = percent(quality.recall)
    if run.records:
        figures["time"] = _duration(run.records[-1]["time"] - run.records[0]["time"])
    body = [tiles(figures)]
    body += [paragraph(f"Step {each['step']}: {each['message']}", "alarm") for each in run.kind("alarm")[-10:]]
    body += [
        paragraph(f"Step {each['step']}: not finite: {', '.join(each['nonfinite'])}", "alarm")
        for each in steps
        if "nonfinite" in each
    ][-10:]
    body += [paragraph(f"Step {each['step']}: {each['message']}") for each in run.kind("note")[-10:]]
    body += [settings(_settings(run)), folded("The whole configuration", dump(run.config))]
    return Section("Summary", body)


def learning_curves(run: Inputs, pictures: Pictures) -> Section:
    """Show the loss and the AP of both models."""
    if not run.kind("step"):
        return Section("Learning curves", [paragraph(NO_FIGURES, "absent")])
    losses = curves(run, {"total": "loss"})
    for source, name in (("sup", "labelled"), ("unsup", "unlabelled")):
        losses |= _summed(run, name, [f"loss/{source}/{loss}/weighted" for loss in LOSSES])
    shown = [_plot(run, pictures, "loss.png", losses, "weighted loss", "Training loss and its two parts.")]
    for figure, name in (("AP", "ap.png"), ("AP50", "ap50.png")):
        points = _evaluations(run, figure)
        if points:
            caption = f"{figure} on the validation images, in percent."
            shown.append(_plot(run, pictures, name, points, f"{figure} (%)", caption))
    rate = curves(run, {"learning rate": "lr"})
    shown.append(_plot(run, pictures, "lr.png", rate, "learning rate", "Learning rate.", smooth=False))
    lead = "The dotted line marks the end of the burn-in, where the teacher appears." if run.burn_in else ""
    absent = [] if run.kind("eval") else [paragraph(NO_EVALUATION, "absent")]
    return Section("Learning curves", [paragraph(lead), grid(shown), *absent])


def ap_table(run: Inputs, pictures: Pictures) -> Section:
    """List the newest AP of every class and model."""
    newest = {record["model"]: record for record in run.kind("eval")}
    if not newest:
        return Section("AP per class", [paragraph(NO_EVALUATION, "absent")])
    sizes = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    overall = [
        (f"{model}, step {record['step']}", *(percent(record.get(name)) for name in sizes))
        for model, record in newest.items()
    ]
    names = list(next(iter(newest.values())).get("per_class", {}))
    columns = ["class", *(f"{model} {figure}" for model in newest for figure in ("AP", "AP50"))]
    classes = [
        (
            name,
            *(percent(record["per_class"].get(name, {}).get(f)) for record in newest.values() for f in ("AP", "AP50")),
        )
        for name in names
    ]
    lead = "Newest evaluation, in percent. A dash: no box of that class or size exists, so there is no such figure."
    body = [paragraph(lead), table(["model", *sizes], overall), heading("By class"), table(columns, classes)]
    return Section("AP per class", body)


def loss_shares(run: Inputs, pictures: Pictures) -> Section:
    """Show which unsupervised loss drives the student (Fig. 1d of the IL-net paper)."""
    title = "Unsupervised losses"
    names = [name for name in LOSSES if curves(run, {name: f"loss/unsup/{name}/share"})]
    if not names:
        reason = "A supervised run has none." if not run.config.uses_labels else "None were written yet."
        return Section(title, [paragraph(reason, "absent")])
    records = [record for record in run.kind("step") if any(f"loss/unsup/{name}/share" in record for name in names)]
    x = [record["step"] for record in records]
    parts = {name: [_times(100, record.get(f"loss/unsup/{name}/share")) for record in records] for name in names}
    shares = stacked(x, parts, y_label="share of the total loss (%)", burn_in=run.burn_in)
    raw = curves(run, {name: f"loss/unsup/{name}/raw" for name in names})
    caption = "Unsupervised losses before weighting."
    figures = [
        pictures.figure("loss_shares.png", shares, "Share of each weighted unsupervised loss in the total loss."),
        _plot(run, pictures, "loss_unsup.png", raw, "loss, unweighted", caption),
    ]
    return Section(title, [grid(figures)])


def gates(run: Inputs, pictures: Pictures) -> Section:
    """Show how many boxes each gate drops (Fig. 3d of the IL-net paper) and how many are left."""
    found = {key for record in run.kind("step") for key in record if key.startswith("gate/")}
    dropped = curves(run, {key.split("/")[1]: key for key in sorted(found) if key.endswith("/dropped")})
    kept = curves(run, {"kept": "pseudo/boxes_per_image"})
    if not kept:
        reason = run.no_labels or "No step with pseudo-labels was written yet."
        return Section("What the gates drop", [paragraph(reason, "absent")])
    figures = []
    if dropped:
        caption = "Boxes dropped per unlabelled image, by gate: quality (IoU branch), NMS, class confidence."
        figures.append(_plot(run, pictures, "gates.png", dropped, "dropped per image", caption))
    background = curves(run, {"passed as background": "gate/quality/background"})
    if background:
        caption = (
            "Boxes per unlabelled image that pass the quality gate only because the best class of their region is "
            "background; of those above the score floor, for others are not stored."
        )
        figures.append(_plot(run, pictures, "gate_background.png", background, "passed per image", caption))
    level = None
    if run.hidden is not None and len(run.hidden):
        level = ("true boxes per image", run.hidden.num_boxes / len(run.hidden))
    caption = "Pseudo-boxes per unlabelled image."
    figures.append(_plot(run, pictures, "kept.png", kept, "kept per image", caption, level=level))
    means = curves(
        run,
        {
            "class confidence, kept": "pseudo/mean_score",
            "quality, kept": "pseudo/mean_quality",
            "quality, dropped": "gate/quality/mean_dropped",
        },
    )
    if means:
        caption = (
            "Mean class confidence and mean localisation quality of the kept boxes; mean quality of the boxes that the "
            "quality gate drops."
        )
        figures.append(_plot(run, pictures, "kept_scores.png", means, "mean", caption, top=1.0))
    return Section("What the gates drop", [grid(figures)])


def speed(run: Inputs, pictures: Pictures) -> Section:
    """Show throughput, waits and label age."""
    if not run.kind("step"):
        return Section("Speed, waits and label age", [paragraph(NO_FIGURES, "absent")])
    seconds = {"step": "step_s", "wait for images": "data_wait_s", "wait for labels": "label_wait_s"}
    ages = curves(run, {"oldest": "labels/age_max", "mean": "labels/age_mean"})
    rate = curves(run, {"images/s": "images_per_s"})
    figures = [
        _plot(run, pictures, "speed.png", rate, "images per second", "Training throughput, all workers together."),
        _plot(run, pictures, "waits.png", curves(run, seconds), "seconds per step", "Where the time of a step goes."),
    ]
    if ages:
        caption = "Age of the pseudo-labels when they were used."
        figures.append(_plot(run, pictures, "age.png", ages, "age (steps)", caption))
    return Section("Speed, waits and label age", [grid(figures)])


def curves(run: Inputs, names: dict[str, str]) -> dict[str, Curve]:
    """Return label -> (steps, values) for the metrics that occur at all; `names` maps labels to metrics."""
    found = {}
    for label, name in names.items():
        records = [record for record in run.kind("step") if name in record]
        if records:
            found[label] = ([float(record["step"]) for record in records], [record[name] for record in records])
    return found


def _plot(
    run: Inputs,
    pictures: Pictures,
    name: str,
    series: Series,
    y_label: str,
    caption: str,
    *,
    level: tuple[str, float] | None = None,
    top: float | None = None,
    smooth: bool = True,
) -> str:
    content = lines(series, y_label=y_label, burn_in=run.burn_in, level=level, top=top, smooth=smooth)
    return pictures.figure(name, content, caption)


def _evaluations(run: Inputs, figure: str) -> dict[str, Curve]:
    """Return model -> (steps, values in percent)."""
    found: dict[str, Curve] = {}
    for record in run.kind("eval"):
        x, y = found.setdefault(record["model"], ([], []))
        x.append(record["step"])
        y.append(_times(100, record[figure]))
    return found


def _summed(run: Inputs, label: str, names: Sequence[str]) -> dict[str, Curve]:
    records = [record for record in run.kind("step") if any(record.get(name) is not None for name in names)]
    if not records:
        return {}
    sums: list[float | None] = [sum(record.get(name) or 0.0 for name in names) for record in records]
    return {label: ([float(record["step"]) for record in records], sums)}


def _status(run: Inputs) -> str:
    """Return done, failed, ... as the last attempt said, or that it has not said anything."""
    last: Record = next((each for each in reversed(run.records) if each["kind"] in ("start", "end")), {})
    if last.get("kind") == "end":
        return str(last["reason"])
    return "running or killed" if last else "not started"


def _settings(run: Inputs) -> list[tuple[str, str]]:
    config = run.config
    rows: list[tuple[str, str]] = [("method", config.method.name)]
    rows += [(f"method.{key}", str(value)) for key, value in config.method if key != "name" and _is_plain(value)]
    rows += [("labelled images", config.data.labeled.path)]
    if run.unlabeled is not None:
        rows += [("unlabelled images", str(len(run.unlabeled)))]
    optim, labels = config.optim, config.labels
    rows += [
        ("backbone", config.model.backbone),
        ("batch", f"{optim.labeled_batch} labelled" + f" + {optim.unlabeled_batch} unlabelled" * config.uses_labels),
        ("learning rate", f"{optim.lr:g} ({optim.name})"),
        ("seed", str(config.seed)),
    ]
    if config.uses_labels:
        rows += [("labels", f"{labels.source}, lookahead {labels.lookahead}, publish every {labels.publish_every}")]
    starts = run.kind("start")
    if starts:
        begun = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(starts[0]["time"]))
        rows += [("begun", begun), ("attempts", str(len(starts))), ("workers", str(starts[-1].get("world", "–")))]
        rows += [("parameters", f"{starts[-1]['num_params'] / 1e6:.1f} M")] if "num_params" in starts[-1] else []
    return rows


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02} h" if minutes >= 60 else f"{seconds / 60:.1f} min"
