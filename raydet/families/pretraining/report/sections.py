"""The sections of a pre-training run's report that are made from the metrics."""

from __future__ import annotations

import numpy as np

from raydet.families.pretraining.report.inputs import PretrainingInputs
from raydet.report.common import (
    NO_EVALUATION,
    NO_FIGURES,
    Curve,
    curves,
    elapsed,
    evaluations_of,
    loss_curves,
    messages,
    plot,
    progress,
    settings_of,
    times,
)
from raydet.report.page import Pictures, Section, grid, paragraph, table, tiles
from raydet.text import percent, plural

RECALLS = {"recall_10": "at 10", "recall_100": "at 100", "recall_1000": "at 1000", "ar_100": "AR at 100"}
PASSED = ("all filters", "shape, sides of 32 pixels", "sides of 32 pixels", "none: the whole image")


def summary(run: PretrainingInputs, pictures: Pictures) -> Section:
    """Say how the run ended, what it reached, what went wrong, and with which settings."""
    figures = progress(run)
    newest = (run.kind("step") or [{}])[-1]
    for name, label in (("similarity/views", "similarity"), ("similarity/projection_spread", "projection spread")):
        figures |= {label: f"{newest[name]:.3f}"} if newest.get(name) is not None else {}
    data = run.config.data
    own = [("images", data.images.path), ("proposals", data.proposals), ("backbone", run.config.model.backbone)]
    return Section("Summary", [tiles(figures | elapsed(run)), *messages(run), *settings_of(run, own)])


def learning_curves(run: PretrainingInputs, pictures: Pictures) -> Section:
    """Show the losses, what region proposals find, and the learning rate."""
    if not run.kind("step"):
        return Section("Learning curves", [paragraph(NO_FIGURES, "absent")])
    caption = "Training loss: boxes that have to look alike (det, from 8 to -8), and region proposals (rpn)."
    shown = [plot(run, pictures, "loss.png", loss_curves(run), "weighted loss", caption)]
    found = {label: evaluations_of(run, name) for name, label in RECALLS.items()}
    found = {label: curve for label, curve in found.items() if any(value is not None for value in curve[1])}
    if found:
        iou = run.config.eval.recall_iou
        caption = f"True boxes of held-out images that the region proposals find (IoU {iou:g}), before any label."
        shown.append(plot(run, pictures, "recall.png", found, "boxes (%)", caption, smooth=False, strong="at 100"))
    rates = curves(run, {"RPN": "lr/rpn"}) or curves(run, {"learning rate": "lr"})
    shown.append(plot(run, pictures, "lr.png", rates, "learning rate", "Learning rate.", smooth=False))
    absent = [] if run.kind("eval") else [paragraph(NO_EVALUATION, "absent")]
    return Section("Learning curves", [grid(shown), *absent, *_table(run)])


def similarity(run: PretrainingInputs, pictures: Pictures) -> Section:
    """Show whether boxes look alike because they are the same, or because the network says the same of all."""
    title = "Similarity, and whether it is a collapse"
    alike = curves(run, {"training": "similarity/views"})
    if not alike:
        return Section(title, [paragraph("Nothing is compared: the region proposals alone are trained.", "absent")])
    alike |= {"held-out": evaluations_of(run, "similarity", 1)} if run.kind("eval") else {}
    spread = curves(run, {"training": "similarity/projection_spread"})
    spread |= {"held-out": evaluations_of(run, "projection_spread", 1)} if run.kind("eval") else {}
    caption = "Cosine of the same box in two views, online against target branch; 1: the loss has nothing left to say."
    shown = [plot(run, pictures, "similarity.png", alike, "cosine", caption, top=1.0)]
    caption = "Standard deviation of the projections of different boxes, as a share of 1 / sqrt(dimensions)."
    level = ("alarm", run.method.collapse_std)
    shown.append(plot(run, pictures, "spread.png", spread, "share of healthy", caption, top=1.0, level=level))
    lead = "Healthy: both high. A collapse: the cosine near 1 while the spread falls to 0."
    return Section(title, [paragraph(lead), grid(shown)])


def proposals(run: PretrainingInputs, pictures: Pictures) -> Section:
    """Show what the proposals are like: how many, from which filters, on which levels of the pyramid."""
    title = "Proposals and pyramid levels"
    shown = []
    strides = run.config.model.pooled_strides
    levels = curves(run, {f"stride {stride}": f"levels/{level}" for level, stride in enumerate(strides)})
    if levels:
        percents = _percents(levels)
        caption = "From which level of the pyramid boxes are pooled, all three views together."
        shown.append(plot(run, pictures, "levels.png", percents, "boxes (%)", caption))
    odd = curves(run, {"whole view instead": "boxes/fallback"})
    repeated = curves(run, {"repeated boxes": "boxes/repeated"})
    odd |= {
        label: (steps, [times(1 / run.method.num_boxes, value) for value in values])
        for label, (steps, values) in repeated.items()
    }
    if odd:
        percents = _percents(odd)
        caption = "Images of which no proposal is in all views; boxes that repeat another one of their image."
        shown.append(plot(run, pictures, "fallback.png", percents, "share (%)", caption))
    drawn = curves(run, {"on a box": "anchors/on_boxes"})
    if drawn:
        caption = (
            "Anchors drawn for the region proposals' loss that lie on a box (model.rpn_batch: how many are drawn)."
        )
        shown.append(plot(run, pictures, "anchors.png", _percents(drawn), "anchors drawn (%)", caption))
    counts, fallbacks = run.counted()
    rows = [(label, str(fallbacks[number]), percent(fallbacks[number] / max(1, len(counts)))) for number, label in
            enumerate(PASSED) if fallbacks[number]]  # fmt: skip
    body = [grid(shown)] if shown else [paragraph(NO_FIGURES, "absent")]
    if counts:
        low, middle, high = (int(value) for value in np.percentile(counts, (0, 50, 100)))
        lead = f"Proposals of an image: {low} to {high}, median {middle} ({plural(len(counts), 'image')} looked at)."
        body += [paragraph(lead), table(["filters that they have passed", "images", "%"], rows)]
    return Section(title, body + ([paragraph(run.no_data, "absent")] if run.no_data else []))


def _table(run: PretrainingInputs) -> list[str]:
    newest = (run.judged or [{}])[-1]
    known = [(label, percent(newest[name])) for name, label in RECALLS.items() if newest.get(name) is not None]
    return [table(["recall of true boxes", "%"], known)] if known else []


def _percents(found: dict[str, Curve]) -> dict[str, Curve]:
    return {label: (steps, [times(100, value) for value in values]) for label, (steps, values) in found.items()}
