"""The sections of a detector's report that are made from the metrics: summary, curves, AP table, losses, gates."""

from __future__ import annotations

from raydet.families.detection.coco import COLUMNS, GROUPS, GROUPS_AT_50
from raydet.families.detection.report.inputs import Inputs
from raydet.report.common import (
    NO_EVALUATION,
    NO_FIGURES,
    curves,
    elapsed,
    evaluations,
    loss_curves,
    loss_names,
    marks_of,
    messages,
    plot,
    progress,
    settings_of,
    times,
)
from raydet.report.figures import stacked
from raydet.report.page import Pictures, Section, grid, heading, paragraph, table, tiles
from raydet.text import percent


def summary(run: Inputs, pictures: Pictures) -> Section:
    """Say how the run ended, what it reached, what went wrong, and with which settings."""
    figures = progress(run)
    if run.history.windows and (quality := run.history.windows[-1].quality) is not None:
        figures["label precision"] = percent(quality.precision)
        figures["label recall"] = percent(quality.recall)
    body = [tiles(figures | elapsed(run)), *messages(run)]
    own = [("labelled images", run.config.data.labeled.path), ("backbone", run.config.model.backbone)]
    return Section("Summary", body + settings_of(run, own))


def learning_curves(run: Inputs, pictures: Pictures) -> Section:
    """Show the loss and the AP of both models."""
    if not run.kind("step"):
        return Section("Learning curves", [paragraph(NO_FIGURES, "absent")])
    shown = [plot(run, pictures, "loss.png", loss_curves(run), "weighted loss", "Training loss and its two parts.")]
    kinds = (("AP", "ap.png", ""), ("AP50", "ap50.png", ""), ("AP_mk", "ap_mk.png", " of masks"))
    for figure, name, of in kinds:
        points = evaluations(run, figure) if not of or has_masks(run) else {}
        if points:
            caption = f"{figure}{of} on the validation images, in percent."
            shown.append(plot(run, pictures, name, points, f"{figure} (%)", caption))
    rate = curves(run, {"learning rate": "lr"})
    shown.append(plot(run, pictures, "lr.png", rate, "learning rate", "Learning rate.", smooth=False))
    absent = [] if run.kind("eval") else [paragraph(NO_EVALUATION, "absent")]
    return Section("Learning curves", [paragraph(marks_text(run)), grid(shown), *absent])


def marks_text(run: Inputs) -> str:
    """Say what the vertical lines in plots mean."""
    burn_in = run.config.method.burn_in_steps
    parts = [
        "the end of the burn-in, where the teacher appears" if end == burn_in else f"step {end}, where a stage begins"
        for end in run.stage_ends
    ]
    lines = "The dotted line marks" if len(parts) == 1 else "Dotted lines mark"
    return f"{lines} {', and '.join(parts)}." if parts else ""


def ap_table(run: Inputs, pictures: Pictures) -> Section:
    """List the newest AP of every class and model."""
    newest = {record["model"]: record for record in run.kind("eval")}
    if not newest:
        return Section("AP per class", [paragraph(NO_EVALUATION, "absent")])
    of_groups = [name for name in (*GROUPS, *GROUPS_AT_50) if any(r.get(name) is not None for r in newest.values())]
    sizes = (*COLUMNS, *of_groups)
    overall = [
        (f"{model}, step {record['step']}", *(percent(record.get(name)) for name in sizes))
        for model, record in newest.items()
    ]
    told = ("AP", "AP50", "AP_mk") if has_masks(run) else ("AP", "AP50")
    if has_masks(run):
        overall += [
            (f"{model}, step {record['step']}: masks", *(percent(record.get(f"{name}_mk")) for name in sizes))
            for model, record in newest.items()
        ]
    names = list(next(iter(newest.values())).get("per_class", {}))
    columns = ["class", *(f"{model} {figure}" for model in newest for figure in told)]
    classes = [
        (name, *(percent(record["per_class"].get(name, {}).get(f)) for record in newest.values() for f in told))
        for name in names
    ]
    lead = "Newest evaluation, in percent. A dash: no box of that class or size exists, so there is no such figure."
    body = [paragraph(lead), table(["model", *sizes], overall), heading("By class"), table(columns, classes)]
    return Section("AP per class", body)


def has_masks(run: Inputs) -> bool:
    """Return whether any evaluation has figures of masks."""
    return any(record.get("AP_mk") is not None for record in run.kind("eval"))


def loss_shares(run: Inputs, pictures: Pictures) -> Section:
    """Show which unsupervised loss drives the student (Fig. 1d of the IL-net paper)."""
    title = "Unsupervised losses"
    every = [name for source, name in loss_names(run) if source == "unsup"]
    names = [name for name in every if curves(run, {name: f"loss/unsup/{name}/share"})]
    if not names:
        reason = "A supervised run has none." if not run.config.uses_labels else "None were written yet."
        return Section(title, [paragraph(reason, "absent")])
    records = [record for record in run.kind("step") if any(f"loss/unsup/{name}/share" in record for name in names)]
    x = [record["step"] for record in records]
    parts = {name: [times(100, record.get(f"loss/unsup/{name}/share")) for record in records] for name in names}
    shares = stacked(x, parts, y_label="share of the total loss (%)", marks=marks_of(run))
    raw = curves(run, {name: f"loss/unsup/{name}/raw" for name in names})
    caption = "Unsupervised losses before weighting."
    figures = [
        pictures.figure("loss_shares.png", shares, "Share of each weighted unsupervised loss in the total loss."),
        plot(run, pictures, "loss_unsup.png", raw, "loss, unweighted", caption),
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
        figures.append(plot(run, pictures, "gates.png", dropped, "dropped per image", caption))
    background = curves(run, {"passed as background": "gate/quality/background"})
    if background:
        caption = (
            "Boxes per unlabelled image that pass the quality gate only because the best class of their region is "
            "background; of those above the score floor, for others are not stored."
        )
        figures.append(plot(run, pictures, "gate_background.png", background, "passed per image", caption))
    level = None
    if run.hidden is not None and len(run.hidden):
        level = ("true boxes per image", run.hidden.num_boxes / len(run.hidden))
    caption = "Pseudo-boxes per unlabelled image."
    figures.append(plot(run, pictures, "kept.png", kept, "kept per image", caption, level=level))
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
        figures.append(plot(run, pictures, "kept_scores.png", means, "mean", caption, top=1.0))
    return Section("What the gates drop", [grid(figures)])
