"""The sections of a report that look at the pseudo-labels themselves: their quality over training, and a gallery."""

from __future__ import annotations

from collections.abc import Sequence

from raydet.errors import UserError
from raydet.families.detection.pseudo_quality import PseudoLabelQuality
from raydet.families.detection.report.gallery import teacher_picture, truth_picture
from raydet.families.detection.report.history import JudgedLabel, LabelWindow, true_boxes
from raydet.families.detection.report.inputs import Inputs
from raydet.report.figures import COLORS, heatmap, lines
from raydet.report.page import Pictures, Section, grid, heading, paragraph, table
from raydet.text import percent

GALLERY = 8  # images
CURVES = 4  # moments of the run in one plot
IOU_BINS = [0.05 + i / 10 for i in range(10)]  # middles

Judged = list[tuple[LabelWindow, PseudoLabelQuality]]


def localisation(run: Inputs, pictures: Pictures) -> Section:
    """Show how well pseudo-boxes fit, and where their classes are wrong (Fig. 1a-c of the IL-net paper)."""
    title = "Localisation of the pseudo-boxes"
    judged = _judged(run)
    if not judged:
        return Section(title, [paragraph(run.no_labels or run.no_truth, "absent")])
    steps = [window.middle for window, _ in judged]
    shares = "share of these boxes"
    histogram = heatmap(steps, [q.iou_histogram for _, q in judged], y_label="IoU with the truth", color_label=shares)
    errors = heatmap(steps, [q.class_errors for _, q in judged], y_label="IoU with the truth", color_label=shares)
    chosen = [judged[round(i * (len(judged) - 1) / (CURVES - 1))] for i in range(CURVES)]
    by_bin = {f"step {w.middle:.0f}": (IOU_BINS, [int(count) for count in q.class_errors]) for w, q in chosen}
    overall = {
        "mean IoU": (steps, [_in_percent(q.mean_iou) for _, q in judged]),
        "wrong class": (steps, [_in_percent(q.class_error_rate) for _, q in judged]),
    }
    figures = [
        pictures.figure("iou.png", histogram, "Best IoU of each kept pseudo-box with a true box."),
        pictures.figure("iou_wrong.png", errors, "The same for pseudo-boxes whose class is not that of the true box."),
        pictures.figure(
            "class_errors.png",
            lines(by_bin, x_label="IoU with the truth", y_label="class errors in the sample"),
            "Class errors by IoU, at several moments of the run.",
        ),
        pictures.figure(
            "iou_mean.png",
            lines(overall, y_label="%", top=100.0),
            "Mean best IoU, and the share of pseudo-boxes with the wrong class.",
        ),
    ]
    sampled, stored = (sum(getattr(w, name) for w in run.history.windows) for name in ("sampled", "labels"))
    lead = (
        f"Kept pseudo-boxes against the hidden truth, which training never sees: a sample of {sampled} of {stored} "
        f"stored labels. A box that touches no true box has IoU 0 and no class error."
    )
    return Section(title, [paragraph(lead), grid(figures)])


def precision_and_recall(run: Inputs, pictures: Pictures) -> Section:
    """Show how many pseudo-boxes are right, and how many true boxes they find, per class over time."""
    title = "Precision and recall of the pseudo-labels"
    judged = _judged(run)
    if not judged or run.hidden is None:
        return Section(title, [paragraph(run.no_labels or run.no_truth, "absent")])
    steps = [window.middle for window, _ in judged]
    names = run.hidden.class_names
    newest = judged[-1][1]
    # The commonest classes get a curve; the table has all.
    shown = sorted(range(len(names)), key=lambda k: -int(newest.truths[k]))[: len(COLORS) - 1]
    figures = []
    for kind in ("precision", "recall"):
        series = {"all": (steps, [_in_percent(getattr(q, kind)) for _, q in judged])}
        for k in sorted(shown):
            values = [_in_percent(q.precision_of(k) if kind == "precision" else q.recall_of(k)) for _, q in judged]
            series[names[k]] = (steps, values)
        plot = lines(series, y_label=f"{kind} (%)", top=100.0, strong="all")
        figures.append(pictures.figure(f"pseudo_{kind}.png", plot, f"{kind.capitalize()} of the kept pseudo-boxes."))
    rows = [
        (
            name,
            str(newest.truths[k]),
            str(newest.boxes[k]),
            percent(newest.precision_of(k)),
            percent(newest.recall_of(k)),
        )
        for k, name in enumerate(names)
    ]
    lead = "A pseudo-box is right if it covers a true box of its class, not yet taken by a better one, with IoU >= 0.5."
    columns = ("class", "true boxes", "pseudo-boxes", "precision", "recall")
    last = heading(f"Sample of the newest labels (steps {judged[-1][0].first} to {judged[-1][0].last}), in percent")
    return Section(title, [paragraph(lead), grid(figures), last, table(columns, rows)])


def gallery(run: Inputs, pictures: Pictures) -> Section:
    """Show the newest labels on their images, beside the truth."""
    title = "Newest labels"
    if run.unlabeled is None or not run.history.newest:
        reason = run.no_labels or run.no_truth or "There are no unlabelled images."
        return Section(title, [paragraph(reason, "absent")])
    lead = (
        "Green: kept pseudo-boxes with class and confidence. Red: dropped ones, the most confident. "
        "Blue: the truth, which training never sees."
    )
    newest = run.history.newest
    chosen = [newest[i * len(newest) // GALLERY] for i in range(GALLERY)] if len(newest) > GALLERY else newest
    figures = [figure for i, label in enumerate(chosen) for figure in _pair(run, pictures, i, label)]
    return Section(title, [paragraph(lead), grid(figures, "pairs")])


def _pair(run: Inputs, pictures: Pictures, number: int, label: JudgedLabel) -> Sequence[str]:
    """Return an image's pictures, or what is wrong with it."""
    image_id, names = label.stored.image_id, run.class_names
    assert run.unlabeled is not None
    try:
        pixels = run.unlabeled.pixels_at(run.unlabeled.position(image_id))
        caption = f"{image_id}, teacher of step {label.stored.teacher.version}"
        shown = [pictures.figure(f"labels_{number}.jpg", teacher_picture(pixels, label, names), caption)]
        if run.hidden is not None:
            picture = truth_picture(pixels, *true_boxes(run.hidden, image_id), names)
            shown.append(pictures.figure(f"labels_{number}_truth.jpg", picture, "truth"))
        return shown
    except (UserError, KeyError) as error:
        return [paragraph(f"{image_id}: {error}", "absent")]


def _judged(run: Inputs) -> Judged:
    return [(window, window.quality) for window in run.history.windows if window.quality is not None]


def _in_percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
