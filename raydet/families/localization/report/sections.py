"""The sections of a localizer's report that are made from the metrics: summary, curves, stages beside trivial boxes."""

from __future__ import annotations

from raydet.families.localization.accuracy import NAMES
from raydet.families.localization.report.inputs import LocalizationInputs
from raydet.report.common import (
    NO_EVALUATION,
    NO_FIGURES,
    curves,
    elapsed,
    evaluations_of,
    loss_curves,
    messages,
    plot,
    progress,
    settings_of,
)
from raydet.report.page import Pictures, Section, grid, paragraph, table, tiles
from raydet.text import percent

FIGURES = {
    "gt_known": "GT-Known",
    "top1_loc": "Top-1 Loc",
    "top5_loc": "Top-5 Loc",
    "max_box_acc": "MaxBoxAcc",
    "max_box_acc_30": "at .3",
    "max_box_acc_50": "at .5",
    "max_box_acc_70": "at .7",
    "top1_class": "class right",
    "mean_area": "mean area",
}


def summary(run: LocalizationInputs, pictures: Pictures) -> Section:
    """Say how the run ended, what it reached, what went wrong, and with which settings."""
    figures = progress(run)
    newest = run.judged[-1:] or [{}]
    figures |= {f"{NAMES[name]}": f"{percent(newest[0].get(name))} %" for name in NAMES if name in newest[0]}
    own = [
        ("images", run.config.data.labeled.path),
        ("classifier", run.config.model.classifier_backbone),
        ("localizer", run.config.model.localizer_backbone),
    ]
    return Section("Summary", [tiles(figures | elapsed(run)), *messages(run), *settings_of(run, own)])


def learning_curves(run: LocalizationInputs, pictures: Pictures) -> Section:
    """Show the loss, how often boxes are right, and the learning rates."""
    if not run.kind("step"):
        return Section("Learning curves", [paragraph(NO_FIGURES, "absent")])
    shown = [plot(run, pictures, "loss.png", loss_curves(run), "weighted loss", "Training loss, by stage.")]
    right = {label: evaluations_of(run, name) for name, label in list(FIGURES.items())[:2]}
    right |= {f"{NAMES[name]}": evaluations_of(run, name) for name in NAMES}
    right |= {"pseudo-labels": evaluations_of(run, "pseudo_label")}
    right = {label: curve for label, curve in right.items() if any(value is not None for value in curve[1])}
    if right:
        caption = "Share of validation images whose box is right (GT-Known), beside boxes that need no network."
        shown.append(plot(run, pictures, "gt_known.png", right, "images (%)", caption, smooth=False, strong="GT-Known"))
    names = {"classifier": "lr/classifier", "localizer": "lr/localizer"}
    rates = curves(run, names) or curves(run, {"learning rate": "lr"})
    shown.append(plot(run, pictures, "lr.png", rates, "learning rate", "Learning rates; 0: frozen.", smooth=False))
    absent = [] if run.kind("eval") else [paragraph(NO_EVALUATION, "absent")]
    return Section("Learning curves", [grid(shown), *absent])


def stages(run: LocalizationInputs, pictures: Pictures) -> Section:
    """List all figures at the end of each stage, and of the trivial boxes."""
    title = "Figures at the end of each stage"
    found = run.judged
    if not found:
        return Section(title, [paragraph(NO_EVALUATION, "absent")])
    rows = []
    for span in run.spans:
        own = [record for record in found if span.first < record["step"] <= span.last]
        if own:
            rows.append((f"{span.name}, step {own[-1]['step']}", *(percent(own[-1].get(name)) for name in FIGURES)))
    if found[-1].get("pseudo_label") is not None:
        rows.append(_only_gt_known("pseudo-labels by themselves", found[-1]["pseudo_label"]))
    rows += [_only_gt_known(label, found[-1].get(name)) for name, label in NAMES.items() if name in found[-1]]
    lead = (
        "In percent, on the validation images. What no network is needed for stands below; a box worth having beats it."
    )
    return Section(title, [paragraph(lead), table(["", *FIGURES.values()], rows)])


def _only_gt_known(label: str, share: float | None) -> tuple[str, ...]:
    return (label, percent(share), *[""] * (len(FIGURES) - 1))
