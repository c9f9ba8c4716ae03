"""The sections of a report that look at what the R2-D2 paper looks at: its Theorems 1 and 2, and the features."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from raydet.errors import UserError
from raydet.families.classification.config import R2D2Config
from raydet.families.classification.methods.r2d2 import theorem_1
from raydet.families.classification.report.inputs import ClassificationInputs, softmax
from raydet.families.classification.snapshot import Sample
from raydet.report.figures import against, by_class
from raydet.report.page import Pictures, Section, grid, paragraph
from raydet.text import percent, plural

NO_SAMPLE = "No sample with learned labels was put aside yet: that happens at every evaluation of the second stage."


def theorem(run: ClassificationInputs, pictures: Pictures) -> Section:
    """Show how far the labels are from where Theorem 1 says that learning comes to rest."""
    title, config = "Theorem 1", run.config.method
    assert isinstance(config, R2D2Config)
    if config.class_loss_type != "kl_pred_to_pseudo":
        reason = f"It is about KL(prediction || label); this run has method.class_loss_type={config.class_loss_type}."
        return Section(title, [paragraph(reason, "absent")])
    try:
        found = _newest_learned(run)
    except UserError as error:
        return Section(title, [paragraph(f"The sample cannot be read: {error}", "absent")])
    if found is None:
        return Section(title, [paragraph(NO_SAMPLE, "absent")])
    step, sample = found
    alpha, beta = config.class_loss_weight, config.entropy_weight
    logits, pseudo = torch.from_numpy(sample.logits).double(), torch.from_numpy(sample.pseudo_logits).double()
    predicted = theorem_1(logits, pseudo, class_weight=alpha, entropy_weight=beta).numpy()
    places, best = np.arange(len(sample.rows)), sample.logits.argmax(axis=1)
    label, prediction = (softmax(part)[places, best] for part in (sample.pseudo_logits, sample.logits))
    plot = against(
        predicted, label, x_label="exp(−L/α) · prediction^(1 − β/α)", y_label="pseudo-label", line="Theorem 1"
    )
    caption = f"{plural(len(places), 'unlabelled image')} at step {step}; n is the class that the network thinks best."
    lead = (
        f"Where learning comes to rest, the label's probability of class n is exp(−L/α) times the prediction's to the "
        f"power of 1 − β/α = {1 - beta / alpha:g}: the points lie on the line. They are {_gap(predicted, label):.3f} "
        f"away on average. Theorem 2 follows: labels are flatter than predictions, as here for "
        f"{percent(float((label <= prediction).mean()))} % of the images."
    )
    return Section(title, [paragraph(lead), grid([pictures.figure("theorem_1.png", plot, caption)])])


def features(run: ClassificationInputs, pictures: Pictures) -> Section:
    """Show the two-dimensional features of labelled and of all images, early and late (Fig. 2 of the paper)."""
    title, figures = "Features", []
    try:
        for step in _moments(run):
            figures += _features_at(run, pictures, step)
    except UserError as error:
        return Section(title, [paragraph(f"The sample cannot be read: {error}", "absent")])
    if not figures:
        reason = run.no_snapshots or run.no_truth or "The network's features are not of two dimensions."
        return Section(title, [paragraph(reason, "absent")])
    lead = "What the last layer sees of a sample of images, coloured by true class: labelled images, then all."
    return Section(title, [paragraph(lead), grid(figures)])


def _features_at(run: ClassificationInputs, pictures: Pictures, step: int) -> list[str]:
    sample = run.sample(step)
    labeled, unlabeled = sample["labeled"], sample["unlabeled"]
    if labeled.features is None or unlabeled.features is None or run.data is None:
        return []
    classes = run.data.labeled.labels()[labeled.rows]
    hidden = np.full(len(unlabeled.rows), -1) if run.truth is None else run.truth[unlabeled.rows]
    points = np.concatenate([labeled.features, unlabeled.features])
    shown = []
    for name, own, labels in (
        ("labelled", labeled.features, classes),
        ("all", points, np.concatenate([classes, hidden])),
    ):
        content = by_class(own, labels, run.class_names, frame=points)
        shown.append(pictures.figure(f"features_{step}_{name}.png", content, f"Step {step}: {name} images."))
    return shown


def _moments(run: ClassificationInputs) -> list[int]:
    """Return the first sample's step, those of the last samples of each stage, and the last one's."""
    steps = run.sample_steps
    ends = (run.config.method.burn_in_steps, run.method.learns_labels_until or 0)
    last = [max(before) for end in ends if (before := [step for step in steps if step <= end])]
    return sorted({*steps[:1], *last, *steps[-1:]})


def _newest_learned(run: ClassificationInputs) -> tuple[int, Sample] | None:
    """Return the newest sample that was taken while labels were learned, of the unlabelled images that have one."""
    until = run.method.learns_labels_until or 0
    for step in reversed([each for each in run.sample_steps if each <= until]):
        sample = run.sample(step)["unlabeled"]
        own = sample.has_label & np.isfinite(sample.logits).all(axis=1)
        if own.any():
            return step, Sample.of(sample.rows[own], sample.logits[own], pseudo_logits=sample.pseudo_logits[own])
    return None


def _gap(x: NDArray[np.float64], y: NDArray[np.float32]) -> float:
    return float(np.abs(x - y).mean())
