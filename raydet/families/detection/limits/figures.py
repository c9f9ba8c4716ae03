"""The figures that a detector's limits are concluded from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raydet.errors import UserError
from raydet.families.detection.data import BOXES
from raydet.families.detection.method import Thresholds, detection_method
from raydet.families.detection.report import classes
from raydet.families.detection.report.inputs import Inputs
from raydet.families.detection.thresholds.axes import Axes, read_axes, selection
from raydet.families.detection.thresholds.count import Reading, ThresholdGrid, TrueLabel, threshold_grid
from raydet.families.detection.thresholds.inputs import true_label

ALL_PASS = 1e-6  # a quality threshold that drops nothing but a quality of exactly 0
LATE = 0.25  # the last quarter of the log lines with pseudo-labels


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """The newest pseudo-boxes of one class."""

    name: str
    truths: int
    boxes: int
    hits: int


@dataclass(frozen=True, slots=True)
class Judged:
    """The newest pseudo-boxes against the hidden truth; `at` is ascending in the score threshold."""

    now: Reading
    at: Sequence[Reading]  # every score threshold, the quality threshold as it is; empty where classes have their own
    ungated: Reading | None  # the present score threshold without the quality gate; None: no such gate
    truths: int
    classes: Sequence[ClassCounts]
    class_errors: float | None  # share of kept boxes on a true box of another class


@dataclass(frozen=True, slots=True)
class BoxFigures:
    """What is known of a run's pseudo-boxes."""

    thresholds: Thresholds
    score: float
    quality: float | None
    judged: Judged | None  # None without hidden truth, or without labels
    incomplete: float | None  # share of labels that were cut off above the score threshold, late in the log
    boxes_per_image: float | None  # kept, late in the log
    labeled_boxes_per_image: float | None


def box_figures(run: Inputs) -> BoxFigures | None:
    """Collect the figures of a run; None where its method uses no pseudo-boxes."""
    thresholds = detection_method(run.config, "a report").thresholds
    if thresholds is None:
        return None
    axes = read_axes(run.config, thresholds)
    return BoxFigures(
        thresholds,
        axes.score,
        axes.quality,
        _judged(run, axes),
        _late(run, "labels/incomplete"),
        _late(run, "pseudo/boxes_per_image"),
        _labeled_density(run),
    )


def _judged(run: Inputs, axes: Axes) -> Judged | None:
    hidden, newest = run.hidden, run.history.newest
    if hidden is None or not newest:
        return None
    images = [true_label(each.stored, hidden) for each in newest]
    if classes.are_learned(run.folder / "diagnostics", axes.score):
        return _judged_by_class(run, images, axes)
    key = axes.thresholds.quality
    qualities = [axes.quality] if key is None else [axes.quality, ALL_PASS]
    selects = [(quality, selection(run.config, axes.settings(axes.scores[0], quality))) for quality in qualities]
    grid = threshold_grid(images, axes.scores, selects, len(hidden.class_names))
    own = [axes.scores.index(axes.of_classes.get(name, axes.score)) for name in hidden.class_names]
    return _against(
        run,
        grid,
        own,
        at=[] if axes.of_classes else [grid.at(place, 0) for place in range(len(axes.scores))],
        ungated=grid.at(own, 1) if key is not None else None,
    )


def _judged_by_class(run: Inputs, images: Sequence[TrueLabel], axes: Axes) -> Judged:
    """Judge what classes kept by their thresholds of the time: no common threshold says it."""
    assert run.hidden is not None
    kept = classes.at_the_time(run.folder / "diagnostics", selection(run.config, {}))
    lowest = [0.0]  # of what was kept anyway
    grid = threshold_grid(images, lowest, [(axes.quality, kept)], len(run.hidden.class_names))
    return _against(run, grid, [0] * len(grid.truths), at=(), ungated=None)


def _against(
    run: Inputs, grid: ThresholdGrid, rows: Sequence[int], *, at: Sequence[Reading], ungated: Reading | None
) -> Judged:
    """Return the counts of a grid, each class at its own row of it."""
    assert run.hidden is not None
    counts = [
        ClassCounts(name, int(grid.truths[k]), int(grid.boxes[rows[k], 0, k]), int(grid.hits[rows[k], 0, k]))
        for k, name in enumerate(run.hidden.class_names)
    ]
    window = run.history.windows[-1].quality
    errors = None if window is None else window.class_error_rate
    return Judged(grid.at(rows, 0), at, ungated, int(grid.truths.sum()), counts, errors)


def _late(run: Inputs, name: str) -> float | None:
    """Return the mean of a figure over the last lines of the log that have it."""
    values = [record[name] for record in run.kind("step") if record.get(name) is not None]
    own = values[-max(1, round(LATE * len(values))) :]
    return sum(own) / len(own) if own else None


def _labeled_density(run: Inputs) -> float | None:
    try:
        labeled = BOXES.open(run.folder / "data").labeled
    except UserError:
        return None
    return labeled.num_boxes / len(labeled) if len(labeled) else None
