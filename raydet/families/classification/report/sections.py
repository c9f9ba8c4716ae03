"""The sections of a classifier's report that are made from the metrics: summary, curves, stages, accuracy, losses."""

from __future__ import annotations

from raydet.families.classification.report.inputs import ClassificationInputs
from raydet.metrics import Record
from raydet.report.common import (
    NO_EVALUATION,
    NO_FIGURES,
    Curve,
    curves,
    elapsed,
    evaluations,
    loss_curves,
    loss_names,
    messages,
    named,
    plot,
    progress,
    settings_of,
    share,
)
from raydet.report.inputs import Span
from raydet.report.page import Pictures, Section, grid, heading, paragraph, table, tiles
from raydet.text import percent


def summary(run: ClassificationInputs, pictures: Pictures) -> Section:
    """Say how the run ended, what it reached, what went wrong, and with which settings."""
    figures = progress(run)
    stage = next((record["stage"] for record in reversed(run.kind("step")) if "stage" in record), None)
    if stage is not None:
        figures["stage"] = stage
    if run.learned:
        figures["label accuracy"] = share("accuracy", run.learned[-1].accuracy)
    body = [tiles(figures | elapsed(run)), *messages(run)]
    own = [("labelled images", run.config.data.labeled.path), ("network", run.config.model.network)]
    if run.data is not None:
        own.insert(1, ("how many", f"{len(run.data.labeled)} of {len(run.class_names)} classes"))
    return Section("Summary", body + settings_of(run, own))


def learning_curves(run: ClassificationInputs, pictures: Pictures) -> Section:
    """Show the loss and the errors of each model."""
    if not run.kind("step"):
        return Section("Learning curves", [paragraph(NO_FIGURES, "absent")])
    caption = "Training loss, in all and by the images or the stage that its parts are about."
    shown = [plot(run, pictures, "loss.png", loss_curves(run), "weighted loss", caption)]
    for figure in ("error", "top5_error"):
        points = evaluations(run, figure)
        if any(value is not None for _, values in points.values() for value in values):
            text = f"{named(run, figure)} (%)"
            caption = f"Share of validation images that are wrong, in percent: {named(run, figure)}."
            shown.append(plot(run, pictures, f"{figure}.png", points, text, caption))
    rate = curves(run, {"learning rate": "lr"})
    shown.append(plot(run, pictures, "lr.png", rate, "learning rate", "Learning rate.", smooth=False))
    absent = [] if run.kind("eval") else [paragraph(NO_EVALUATION, "absent")]
    return Section("Learning curves", [paragraph(marks_text(run)), grid(shown), *absent])


def marks_text(run: ClassificationInputs) -> str:
    """Say what the vertical lines in plots mean."""
    parts = []
    if len(run.stage_ends) == 1:
        parts.append(f"The dotted line marks the end of a stage (step {run.stage_ends[0]}).")
    elif run.stage_ends:
        parts.append(f"Dotted lines mark the ends of stages (steps {', '.join(map(str, run.stage_ends))}).")
    if run.repredictions:
        parts.append("Sparsely dotted lines mark the steps at which pseudo-labels are predicted anew.")
    return " ".join(parts)


def stages(run: ClassificationInputs, pictures: Pictures) -> Section:
    """List the errors at the end of each stage."""
    title = "Error at the end of each stage"
    evals = [record for record in run.kind("eval") if record["split"] == "val"]
    if not evals:
        return Section(title, [paragraph(NO_EVALUATION, "absent")])
    models = list(dict.fromkeys(record["model"] for record in evals))
    with_labels = bool(run.learned)
    columns = ["stage", "steps", "evaluated at", *(f"{model} error" for model in models)]
    rows = []
    for span in run.spans:
        newest = {model: _newest(evals, model, span) for model in models}
        steps = [record["step"] for record in newest.values() if record]
        cells = [f"{span.first} to {span.last}", str(max(steps)) if steps else "–"]
        cells += [percent(record.get("error")) for record in newest.values()]
        if with_labels:
            known = [each for each in run.learned if span.first < each.step <= span.last]
            accuracy = known[-1].accuracy if known else None
            cells.append(percent(None if accuracy is None else 1 - accuracy))
        rows.append((span.name, *cells))
    lead = "In percent, on the validation images, at the last evaluation of each stage."
    if with_labels:
        columns.append("wrong pseudo-labels")
        lead += " Wrong pseudo-labels: of the unlabelled images, against the hidden truth."
    return Section(title, [paragraph(lead), table(columns, rows, first_numeric=1)])


def accuracy_table(run: ClassificationInputs, pictures: Pictures) -> Section:
    """List the newest accuracy of every class and model."""
    newest = {record["model"]: record for record in run.kind("eval")}
    if not newest:
        return Section("Accuracy per class", [paragraph(NO_EVALUATION, "absent")])
    overall = [
        (
            f"{model}, step {record['step']}",
            *(percent(record.get(name)) for name in ("accuracy", "error", "top5_error")),
            str(record.get("images", "–")),
        )
        for model, record in newest.items()
    ]
    by_class = {model: record.get("per_class", {}) for model, record in newest.items()}
    names = list(next(iter(by_class.values())))
    classes = [
        (
            name,
            str(next(iter(by_class.values()))[name].get("images", "–")),
            *(percent(figures.get(name, {}).get("accuracy")) for figures in by_class.values()),
        )
        for name in names
    ]
    lead = "Newest evaluation, in percent. A dash: there is no such image, or fewer than six classes (top-5 error)."
    first = table(["model", "accuracy", "error", named(run, "top5_error"), "images"], overall)
    second = table(["class", "images", *(f"{model} accuracy" for model in newest)], classes)
    return Section("Accuracy per class", [paragraph(lead), first, heading("By class"), second])


def loss_parts(run: ClassificationInputs, pictures: Pictures) -> Section:
    """Show the parts of the loss before weighting, a picture for each kind of images or stage."""
    title = "Parts of the loss"
    losses = loss_names(run)
    if not losses:
        return Section(title, [paragraph(NO_FIGURES, "absent")])
    figures = []
    for source in dict.fromkeys(source for source, _ in losses):
        parts = {named(run, name): f"loss/{source}/{name}/raw" for each, name in losses if each == source}
        shown = {name: _of_present(curve) for name, curve in curves(run, parts).items()}
        shown = {name: curve for name, curve in shown.items() if curve[0]}
        if shown:
            about = f"{named(run, source)} images" if source in ("sup", "unsup") else f"stage {named(run, source)}"
            caption = f"Losses before weighting: {about}."
            figures.append(plot(run, pictures, f"loss_{source}.png", shown, "loss, unweighted", caption))
    lead = "Each part is drawn over the steps that have it."
    return Section(title, [paragraph(lead), grid(figures)])


def _of_present(curve: Curve) -> Curve:
    """Return a curve without the steps where the loss is exactly 0: those of other stages."""
    points = [(step, value) for step, value in zip(*curve, strict=True) if value != 0]
    return [step for step, _ in points], [value for _, value in points]


def _newest(evals: list[Record], model: str, span: Span) -> Record:
    """Return a model's last evaluation in a stage; an empty record where there is none."""
    own = [each for each in evals if each["model"] == model and span.first < each["step"] <= span.last]
    return own[-1] if own else {}
