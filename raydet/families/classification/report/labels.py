"""The sections of a classifier's report about its pseudo-labels: how sure, how often changed, how often right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from raydet.errors import UserError
from raydet.families.classification.report.gallery import class_picture
from raydet.families.classification.report.inputs import ClassificationInputs, LabelQuality
from raydet.families.classification.report.sections import marks_text
from raydet.families.classification.snapshot import Labels
from raydet.metrics import Record
from raydet.report.common import Curve, curves, plot, times
from raydet.report.figures import COLORS, lines
from raydet.report.page import Pictures, Section, grid, heading, paragraph, table
from raydet.text import percent

GALLERY = 8  # images of each kind
MOST_ROWS = 20  # repredictions in the table


def confidence(run: ClassificationInputs, pictures: Pictures) -> Section:
    """Show how sure labels and predictions are, and what their logits sum up to."""
    title = "Entropy, confidence and logit sums"
    figures = []
    for name, y_label, caption, top in (
        ("entropy", "entropy (nats)", "Mean entropy of the distribution over classes.", None),
        ("confidence", "probability", "Mean probability of the best class.", 1.0),
    ):
        found = curves(run, {"pseudo-labels": f"pseudo/{name}", "predictions": f"student/{name}"})
        if found:
            figures.append(plot(run, pictures, f"{name}.png", found, y_label, caption, top=top, smooth=False))
    names = {"pseudo-labels": "pseudo", "predictions": "student"}
    sums = curves(run, {label: f"{name}/logit_sum" for label, name in names.items()})
    if sums:
        spread = {label: values for label, (_, values) in _spreads(run, names).items()}
        caption = "Sum of an image's logits: mean, and standard deviation over images (band)."
        figures.append(
            plot(run, pictures, "logit_sum.png", sums, "sum of logits", caption, spread=spread, smooth=False)
        )
    if not figures:
        return Section(title, [paragraph(_no_labels(run) or "No step with pseudo-labels was written yet.", "absent")])
    lead = f"Means over the unlabelled images of the steps between two lines of the log. {marks_text(run)}"
    return Section(title, [paragraph(lead), grid(figures)])


def repredictions(run: ClassificationInputs, pictures: Pictures) -> Section:
    """Show which share of the labels each reprediction changed."""
    title = "Labels changed by repredictions"
    rows = list(_changes(run))
    if not rows:
        reason = "No pseudo-label has been predicted anew: this run does not do that, or is not so far."
        return Section(title, [paragraph(_no_labels(run) or reason, "absent")])
    lead = "Of the labels that took a new prediction, the share whose class changed."
    body = [paragraph(lead)]
    if len(rows) > 2:
        points: dict[str, Curve] = {"changed": ([step for step, _, _ in rows], [times(100, c) for _, _, c in rows])}
        content = lines(points, y_label="labels changed (%)", smooth=False)
        body.append(grid([pictures.figure("changed.png", content, "Labels changed by each reprediction, in percent.")]))
    cells = [(f"step {step:.0f}", str(number), percent(changed)) for step, number, changed in rows[-MOST_ROWS:]]
    return Section(title, [*body, table(["reprediction", "new labels", "class changed (%)"], cells)])


def correctness(run: ClassificationInputs, pictures: Pictures) -> Section:
    """Show how many labels are right, over time and per class."""
    title = "Accuracy of pseudo-labels and predictions"
    judged = run.learned or run.predicted
    if not judged:
        return Section(title, [paragraph(run.no_truth or run.no_snapshots, "absent")])
    overall = {
        name: ([each.step for each in found], [times(100, each.accuracy) for each in found])
        for name, found in (("pseudo-labels", run.learned), ("predictions, sample", run.predicted))
        if found
    }
    what = "pseudo-labels" if run.learned else "predictions of a sample"
    figures = [
        plot(run, pictures, "label_accuracy.png", overall, "right (%)", "Share that agrees with the hidden truth."),
        plot(
            run, pictures, "label_recall.png", _by_class(run, judged), "right (%)", f"The same by true class: {what}."
        ),
    ]
    newest = judged[-1]
    rows = [
        (
            name,
            str(newest.truths[k]),
            str(newest.labels[k]),
            percent(newest.precision_of(k)),
            percent(newest.recall_of(k)),
        )
        for k, name in enumerate(run.class_names)
    ]
    columns = ("class", "true images", "called so", "rightly so", "found")
    lead = f"Against the hidden truth of the unlabelled images, which training never sees. {marks_text(run)}" + (
        "" if run.learned else " This method learns no labels of its own: these are the network's predictions."
    )
    last = heading(f"By class at step {newest.step}, in percent: {what}")
    return Section(title, [paragraph(lead), grid(figures), last, table(columns, rows)])


def gallery(run: ClassificationInputs, pictures: Pictures) -> Section:
    """Show unlabelled images whose label is surely right, surely wrong, and least sure."""
    title = "Labels on their images"
    if run.newest is None or run.data is None or run.data.unlabeled is None:
        reason = run.no_snapshots or run.no_truth or "There are no unlabelled images."
        return Section(title, [paragraph(reason, "absent")])
    newest, body = run.newest, []
    for number, (name, chosen) in enumerate(_groups(newest, run.truth)):
        shown = [_picture(run, pictures, f"class_{number}_{i}.png", newest, each) for i, each in enumerate(chosen)]
        body += [heading(name), grid(shown, "thumbs") if shown else paragraph("There are none.", "absent")]
    what = "Pseudo-labels" if run.learned or not run.predicted else "Predictions of a sample"
    lead = f"{what} of step {newest.step}: class and, in brackets, its probability."
    if run.truth is not None:
        lead += " The true class, which training never sees, is named where it is another one."
    return Section(title, [paragraph(lead), *body])


def _groups(labels: Labels, truth: NDArray[np.int64] | None) -> Iterator[tuple[str, list[int]]]:
    """Yield the kinds of images of the gallery, each with places in `labels`."""
    order = np.argsort(-labels.scores, kind="stable")
    if truth is None:
        yield "Most confident", order[:GALLERY].tolist()
    else:
        true = truth[labels.rows][order]
        right, known = labels.classes[order] == true, true >= 0
        yield "Most confident, right", order[right][:GALLERY].tolist()
        yield "Most confident, wrong", order[known & ~right][:GALLERY].tolist()
    yield "Least confident", order[::-1][:GALLERY].tolist()


def _picture(run: ClassificationInputs, pictures: Pictures, name: str, labels: Labels, place: int) -> str:
    """Return an image with what it is taken for, or what is wrong with it."""
    assert run.data is not None and run.data.unlabeled is not None
    row = int(labels.rows[place])
    caption = f"{_class_name(run, int(labels.classes[place]))} ({labels.scores[place]:.2f})"
    true = -1 if run.truth is None else int(run.truth[row])
    if true not in (-1, labels.classes[place]):
        caption += f", truly {_class_name(run, true)}"
    try:
        return pictures.figure(name, class_picture(run.data.unlabeled.pixels_at(row).numpy()), caption)
    except (UserError, IndexError) as error:
        return paragraph(f"Image {row}: {error}", "absent")


def _class_name(run: ClassificationInputs, index: int) -> str:
    return run.class_names[index] if index < len(run.class_names) else f"class {index}"


def _by_class(run: ClassificationInputs, judged: Sequence[LabelQuality]) -> dict[str, Curve]:
    """Return a curve for each of the commonest classes; the table has all."""
    commonest = sorted(range(len(run.class_names)), key=lambda k: -int(judged[-1].truths[k]))[: len(COLORS)]
    steps = [float(each.step) for each in judged]
    return {run.class_names[k]: (steps, [times(100, each.recall_of(k)) for each in judged]) for k in sorted(commonest)}


def _changes(run: ClassificationInputs) -> Iterator[tuple[float, int, float | None]]:
    """Yield each reprediction so far: its step, how many labels took it, and the share that changed."""
    records = [record for record in run.kind("step") if record.get("pseudo/repredicted")]
    # When labels are no longer learned, those that missed the last one are asked for again: they are new to nobody.
    ends = (*run.repredictions[1:], run.method.learns_labels_until or run.config.length)
    for first, last in zip(run.repredictions, ends, strict=False):  # none, or as many of both
        own = [record for record in records if first < record["step"] <= last]
        if own:
            yield float(first), sum(record["pseudo/repredicted"] for record in own), _changed(own)


def _changed(records: Sequence[Record]) -> float | None:
    """Return the share of labels that changed over several windows."""
    known = [(record.get("pseudo/had_a_label", 0), record.get("pseudo/changed")) for record in records]
    pairs = [(number, share) for number, share in known if share is not None]
    total = sum(number for number, _ in pairs)
    return sum(number * share for number, share in pairs) / total if total else None


def _spreads(run: ClassificationInputs, names: dict[str, str]) -> dict[str, Curve]:
    """Return the standard deviations of the logit sums, where they were written with every sum."""
    found = curves(run, {label: f"{name}/logit_sum_std" for label, name in names.items()})
    sums = curves(run, {label: f"{name}/logit_sum" for label, name in names.items()})
    return {label: curve for label, curve in found.items() if curve[0] == sums.get(label, ([], []))[0]}


def _no_labels(run: ClassificationInputs) -> str:
    return "" if run.config.uses_labels else "A supervised run has no pseudo-labels."
