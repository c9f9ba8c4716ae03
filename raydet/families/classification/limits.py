"""What limits a classifier's run, as the figures of its pseudo-labels say: one rule, one sentence, and silence
otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raydet.contract import Finding
from raydet.text import percent

if TYPE_CHECKING:
    from raydet.families.classification.report.inputs import ClassificationInputs

ENOUGH = 20  # labels; a share of fewer is an accident
HALF = 0.5
UNSEEN = 0.05  # of a class's images
TOO_SURE = 0.15  # mean probability above the share of right labels
TAKES_ALL = 0.5  # of the pseudo-labels, for one class
TIMES_ITS_SHARE = 3.0  # and so many times its share of the labelled images
UNSETTLED = 0.2  # of the labels, changed by the last reprediction
MOST_CLASSES = 5  # in a sentence


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """The newest labels of one class."""

    name: str
    truths: int
    labels: int
    right: int


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """What is known of a run's pseudo-labels."""

    what: str  # pseudo-labels, or predictions where the method learns no labels of its own
    classes: Sequence[ClassCounts]  # empty without hidden truth
    confidence: float | None  # mean probability of these labels
    shares: Sequence[float]  # of each class among pseudo-labels, newest line of the log; empty where there is none
    labeled_shares: Sequence[float]  # of each class among labelled images
    names: Sequence[str]
    changed: float | None  # share of labels that the last reprediction changed


def label_figures(run: ClassificationInputs) -> LabelFigures | None:
    """Collect the figures of a run; None where its method uses no pseudo-labels."""
    if not run.config.uses_labels:
        return None
    judged = (run.learned or run.predicted)[-1:]
    classes = [
        ClassCounts(name, int(each.truths[k]), int(each.labels[k]), int(each.right[k]))
        for each in judged
        for k, name in enumerate(run.class_names)
    ]
    is_same = bool(judged) and run.newest is not None and run.newest.step == judged[0].step
    sure = float(run.newest.scores.mean()) if is_same and run.newest is not None and len(run.newest.scores) else None
    with_shares = [record["pseudo/per_class"] for record in run.kind("step") if record.get("pseudo/per_class")]
    changes = [record["pseudo/changed"] for record in run.kind("step") if record.get("pseudo/changed") is not None]
    counts = np.zeros(0) if run.data is None else run.data.labeled.images_per_class().astype(np.float64)
    return LabelFigures(
        "pseudo-labels" if run.learned else "predictions",
        classes,
        sure,
        with_shares[-1] if with_shares and sum(with_shares[-1]) > 0 else [],
        (counts / counts.sum()).tolist() if counts.sum() else [],
        run.class_names,
        changes[-1] if changes and run.repredictions else None,
    )


def label_findings(found: LabelFigures) -> list[Finding]:
    """Return what limits a run, the weightiest first."""
    return [*_wrong(found), *_too_sure(found), *_classes(found), *_one_for_all(found), *_unsettled(found)]


def _accuracy(found: LabelFigures) -> tuple[float, int] | None:
    """Return the share of right labels, and how many can be judged; None below `ENOUGH`."""
    total = sum(each.labels for each in found.classes)
    return None if total < ENOUGH else (sum(each.right for each in found.classes) / total, total)


def _wrong(found: LabelFigures) -> Iterator[Finding]:
    judged = _accuracy(found)
    if judged is not None and judged[0] < HALF:
        accuracy, total = judged
        yield Finding(
            f"Only {percent(accuracy, 0)} % of the {found.what} are right, so the student learns more mistakes than "
            f"truths: train the burn-in longer (method.burn_in_steps), or label more images of each class.",
            {f"right {found.what}": f"{percent(accuracy)} %", "of": str(total)},
            uses_truth=True,
        )


def _too_sure(found: LabelFigures) -> Iterator[Finding]:
    judged, sure = _accuracy(found), found.confidence
    if judged is not None and sure is not None and sure - judged[0] >= TOO_SURE - 1e-12:
        yield Finding(
            f"The {found.what} are surer than they are right: their probability says little about which of them to "
            f"trust.",
            {"mean probability": f"{percent(sure)} %", "right": f"{percent(judged[0])} %", "of": str(judged[1])},
            uses_truth=True,
        )


def _classes(found: LabelFigures) -> Iterator[Finding]:
    judged = _accuracy(found)
    wrong = [each for each in found.classes if each.labels >= ENOUGH and each.right < HALF * each.labels]
    if wrong and judged is not None and judged[0] >= HALF:  # else said of all of them already
        wrong.sort(key=lambda each: each.right / each.labels)
        yield Finding(
            f"Images that are called {_named(wrong)} are mostly something else: label more of these and of what they "
            f"are taken for.",
            {f"{each.name}, right of called so": f"{each.right} of {each.labels}" for each in wrong[:MOST_CLASSES]},
            uses_truth=True,
        )
    unseen = [each for each in found.classes if each.truths >= ENOUGH and each.right < UNSEEN * each.truths]
    if unseen:
        unseen.sort(key=lambda each: -each.truths)
        yield Finding(
            f"Next to no image of {_named(unseen)} is recognised: label more of them.",
            {f"{each.name}, found of true": f"{each.right} of {each.truths}" for each in unseen[:MOST_CLASSES]},
            uses_truth=True,
        )


def _one_for_all(found: LabelFigures) -> Iterator[Finding]:
    """One class takes most of the labels; needs no truth."""
    for name, share, labeled in zip(found.names, found.shares, found.labeled_shares, strict=False):
        if share >= TAKES_ALL and share >= TIMES_ITS_SHARE * labeled - 1e-12:
            yield Finding(
                f"{percent(share, 0)} % of the pseudo-labels are {name}, of the labelled images {percent(labeled, 0)} "
                f"%: if the unlabelled images are like the labelled ones, the labels collapse into one class. Train "
                f"the burn-in longer, or lower the weight of the unlabelled images.",
                {f"{name} among pseudo-labels": f"{percent(share)} %", "among labels": f"{percent(labeled)} %"},
            )


def _unsettled(found: LabelFigures) -> Iterator[Finding]:
    if found.changed is not None and found.changed >= UNSETTLED:
        yield Finding(
            f"The last reprediction still changed {percent(found.changed, 0)} % of the labels: they have not settled; "
            f"give the run more of them before its end.",
            {"labels changed by the last reprediction": f"{percent(found.changed)} %"},
        )


def _named(classes: Sequence[ClassCounts]) -> str:
    names = [each.name for each in classes[:MOST_CLASSES]]
    more = f" and {len(classes) - len(names)} more" if len(classes) > len(names) else ""
    return (" and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]) + more
