"""The sections about boxes: what the gate keeps and how right that is, whether boxes drift to the whole image, whether
they are stable."""

from __future__ import annotations

import numpy as np

from raydet.families.localization.accuracy import RIGHT
from raydet.families.localization.report.inputs import LocalizationInputs
from raydet.families.localization.snapshot import TRAIN, Places
from raydet.report.common import Curve, curves, plot
from raydet.report.figures import Series, lines
from raydet.report.page import Pictures, Section, grid, heading, paragraph, table
from raydet.text import percent, plural

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
BINS = 20


def gate(run: LocalizationInputs, pictures: Pictures) -> Section:
    """Show what each threshold of the crop's confidence would keep, and how right it is."""
    title = "The gate: confidence in the crop"
    if not run.snapshots:
        return Section(title, [paragraph(run.no_snapshots, "absent")])
    body, seen = [], _of_training(run)
    for name, places in seen.items():
        ious, problems = run.ious(places)
        rows = [_row(threshold, places, ious) for threshold in THRESHOLDS]
        columns = ["confidence above", "kept", "share", "GT-Known of kept"]
        body += [heading(f"At the end of {name}: {plural(len(places.rows), 'training image')}"), table(columns, rows)]
        if problems:
            said = f"GT-Known is without {plural(len(problems), 'image')} that cannot be read; the first: {problems[0]}"
            body.append(paragraph(said, "absent"))
    lead = (
        "Of the boxes that the localizer says of training images, those that a threshold (tau) would keep, and how "
        "many of them are right. True boxes are used here and nowhere in training."
    )
    figures = [
        _histogram(pictures, "confidence.png", {n: p.confidence for n, p in seen.items()}, "confidence in the crop")
    ]
    over_time = curves(run, {"kept": "gate/kept", "confidence": "gate/confidence", "left the view": "gate/left_view"})
    if over_time:
        caption = "Share of boxes that pass the gate, mean confidence, and boxes that the strong view pushed out."
        figures.append(plot(run, pictures, "gate.png", over_time, "share", caption))
    absent = [paragraph(run.no_truth, "absent")] if run.no_truth else []
    return Section(title, [paragraph(lead), *body, grid(figures), *absent])


def drift(run: LocalizationInputs, pictures: Pictures) -> Section:
    """Show how large boxes are: what covers the whole image convinces a classifier, and says nothing."""
    title = "Box area"
    figures = []
    if run.snapshots:
        areas = {f"end of {name}": _areas(places.boxes) for name, places in _of_training(run).items()}
        figures.append(_histogram(pictures, "areas.png", areas, "box area (share of the view)"))
    names = {
        "mean area": "pseudo/box_area",
        "whole images": "pseudo/whole_image",
        "no attention": "pseudo/no_attention",
    }
    over_time = curves(run, names)
    if over_time:
        caption = "Mean area of the boxes that are learned from, share of those that cover the image, and of flat maps."
        figures.append(plot(run, pictures, "area.png", over_time, "share", caption))
    lead = "Boxes that drift to the whole image pass the gate more easily: watch the mean area of the refinement."
    absent = [] if figures else [paragraph(run.no_snapshots or "No figures were written yet.", "absent")]
    return Section(title, [paragraph(lead), grid(figures), *absent])


def stability(run: LocalizationInputs, pictures: Pictures) -> Section:
    """Show how much pseudo-boxes change from one step to the next."""
    title = "Stability of pseudo-boxes"
    found = curves(run, {"with momentum": "stability/momentum", "without": "stability/without"})
    if not found:
        reason = "None was measured: see method.stability_every." if run.method.has_momentum else ""
        return Section(title, [paragraph(reason or "The method has no momentum classifier.", "absent")])
    caption = "IoU of Algorithm 1's boxes of the same views before and after one step."
    return Section(title, [grid([plot(run, pictures, "stability.png", found, "IoU", caption, smooth=False, top=1.0)])])


def _of_training(run: LocalizationInputs) -> dict[str, Places]:
    """Return the last snapshot of each stage, of training images, by the stage's name."""
    found = {span.name: run.snapshot_of(span) for span in run.spans}
    return {name: each[TRAIN] for name, each in found.items() if each is not None}


def _row(threshold: float, places: Places, ious: np.ndarray | None) -> tuple[str, ...]:
    kept = places.confidence > threshold
    known = kept if ious is None else kept & ~np.isnan(ious)
    right = None if ious is None or not known.any() else float((ious[known] >= RIGHT).mean())
    return f"{threshold:g}", str(int(kept.sum())), percent(float(kept.mean())), percent(right)


def _areas(boxes: np.ndarray) -> np.ndarray:
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    return np.asarray(sides[:, 0] * sides[:, 1])


def _histogram(pictures: Pictures, name: str, values: dict[str, np.ndarray], x_label: str) -> str:
    series: Series = {label: _bins(each) for label, each in values.items()}
    content = lines(series, y_label="images (%)", x_label=x_label, smooth=False)
    return pictures.figure(name, content, f"Histogram: {x_label}, of training images.")


def _bins(values: np.ndarray) -> Curve:
    counts, edges = np.histogram(values, bins=BINS, range=(0.0, 1.0))
    middles = (edges[1:] + edges[:-1]) / 2
    return middles.tolist(), (100 * counts / max(1, len(values))).tolist()
