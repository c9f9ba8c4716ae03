"""Trying thresholds on labels that are already there: the whole computation, and its result as text and as JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from raydet.config.box_data import DatasetConfig
from raydet.errors import DataError, UserError
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.method import detection_method
from raydet.families.detection.thresholds.axes import Axes, read_axes, selections
from raydet.families.detection.thresholds.choice import FEW_TRUTHS, HALF, Choice, Point, pareto_front, recommend
from raydet.families.detection.thresholds.count import Reading, ThresholdGrid, threshold_grid
from raydet.families.detection.thresholds.inputs import Evidence, read_evidence, run_folder_of
from raydet.text import percent, some
from raydet.train.rundir import RunFolder

COLUMNS = ("precision", "recall", "F1", "mean IoU", "boxes/image")
SHOWN = 12  # points of the Pareto front in a table
NO_CHOICE = (
    "No recommendation: at no setting with complete labels does a pseudo-box find a true one; the teacher must get "
    "better first (a longer burn-in)."
)


@dataclass(frozen=True, eq=False)
class ThresholdResult:
    """All figures, and what to make of them."""

    folder: RunFolder
    config: DetectionConfig
    axes: Axes
    evidence: Evidence
    grid: ThresholdGrid
    present: Point
    front: list[Point]
    choice: Choice | None

    @property
    def overrides(self) -> str:
        """Return the recommended setting as words for `raydet train`; empty where there is none."""
        return _words(self.recommended())

    @property
    def now(self) -> Reading:
        """Return what the run's own thresholds give, those of single classes included."""
        return self.grid.at([self.own_present(k) for k in range(len(self.evidence.class_names))], self.present[1])

    def own_present(self, label: int) -> int:
        """Return the row of the score threshold that a class has in the run."""
        own = self.axes.of_classes.get(self.evidence.class_names[label])
        return self.present[0] if own is None else self.grid.scores.index(own)

    @property
    def by_class(self) -> Reading | None:
        """Return what a score threshold for each class would give; None where there is no such setting, or no class
        wants another one than the recommended."""
        if self.choice is None or not self._own_scores:
            return None
        row, column = self.choice.point
        return self.grid.at([self.own_rows.get(k, row) for k in range(len(self.evidence.class_names))], column)

    @cached_property
    def own_rows(self) -> dict[int, int]:
        """Return for each class which score would be recommended if it were the only one, as a row of the grid, at the
        recommended quality threshold. Left out are classes with few true boxes, those that have no hit anywhere, and
        those that would have to go below the common threshold for more boxes of which most are wrong.
        """
        row, column = (self.present if self.choice is None else self.choice.point)[0], self.column
        grid, found = self.grid.at_quality(column), {}
        for k in np.flatnonzero(self.grid.truths >= FEW_TRUTHS).tolist():
            own = recommend(grid.of_class(k), (row, 0))
            if own is not None and _adds_right_boxes(grid.of_class(k), own.point[0], row):
                found[k] = own.point[0]
        return found

    @property
    def undecided(self) -> list[str]:
        """Return the names of the classes that `own_rows` leaves out."""
        return [name for k, name in enumerate(self.evidence.class_names) if k not in self.own_rows]

    @property
    def column(self) -> int:
        """Return the column of the recommended quality threshold, or of the present one where none is."""
        return (self.present if self.choice is None else self.choice.point)[1]

    def recommended(self, *, per_class: bool = False) -> dict[str, Any]:
        """Return the recommended setting by the keys of the configuration; empty where there is none."""
        if self.choice is None:
            return {}
        reading = self.choice.reading
        return self.axes.settings(reading.score, reading.quality, self._own_scores if per_class else None)

    @property
    def _own_scores(self) -> dict[str, float]:
        """Return the score thresholds of the classes that would have another one than the recommended."""
        if self.choice is None or self.axes.thresholds.by_class is None:
            return {}
        names, scores, common = self.evidence.class_names, self.grid.scores, self.choice.point[0]
        return {names[k]: scores[row] for k, row in self.own_rows.items() if row != common}

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what the figures cannot say."""
        notes = [*(self.choice.cautions if self.choice else ()), *self.evidence.notes]
        if self.grid.incomplete.any():
            last = int(np.flatnonzero(self.grid.incomplete)[-1])
            notes.append(
                f"Up to score {self.grid.scores[last]:g}, labels of some images ({self.grid.incomplete[last]} there) "
                f"were cut off by labels.top_k={self.config.labels.top_k}: settings marked *, never recommended."
            )
        notes.append("On the images a setting was chosen on it looks a little better than it is; teachers change, too.")
        return tuple(notes)


def try_thresholds(
    path: Path,
    words: Sequence[str] = (),
    *,
    data: DatasetConfig | None = None,
    version: int | None = None,
    max_images: int = 1000,
) -> ThresholdResult:
    """Judge a run's or a checkpoint's pseudo-labels over a grid of thresholds; see `read_axes` and `read_evidence`.

    Raises UserError where the grid cannot be meant, or there are no labels, or no true boxes to compare them with.
    """
    folder = run_folder_of(path)
    method = detection_method(folder.load_config(), "raydet thresholds")
    config, thresholds = method.run, method.thresholds
    if thresholds is None:
        raise UserError(
            f"{folder.path}: method.name={config.method.name} reads no pseudo-labels, so it has no thresholds to choose"
        )
    if max_images < 1:
        raise UserError(f"--max-images {max_images}: must be at least 1")
    axes = read_axes(config, thresholds, words)
    evidence = read_evidence(path, data=data, version=version, max_images=max_images)
    grid = threshold_grid(evidence.images, axes.scores, selections(config, axes), len(evidence.class_names))
    if not grid.truths.sum():
        raise DataError(f"{evidence.source}: there is no true box in these images, so nothing can be right or wrong")
    columns = axes.qualities or (None,)
    present = (axes.scores.index(axes.score), columns.index(axes.quality))
    return ThresholdResult(folder, config, axes, evidence, grid, present, pareto_front(grid), recommend(grid, present))


def cells(reading: Reading) -> list[str]:
    """Return the figures of a point as text, in the order of `COLUMNS`; rates in percent."""
    rates = (reading.precision, reading.recall, reading.f1, reading.mean_iou)
    return [*map(percent, rates), f"{reading.boxes_per_image:.2f}"]


def setting(reading: Reading) -> list[str]:
    """Return the thresholds of a point as text; * marks a score threshold at which labels are incomplete."""
    up_to = "" if reading.highest_score is None else f" to {reading.highest_score:g}"
    return [f"{reading.score:g}{up_to}{'' if reading.is_complete else ' *'}"] + (
        [] if reading.quality is None else [f"{reading.quality:g}"]
    )


def as_text(result: ThresholdResult) -> str:
    """Return the present setting, the recommendation with its reason, and the Pareto front."""
    grid, choice = result.grid, result.choice
    has_quality = len(grid.qualities) > 1 or grid.qualities[0] is not None
    rows = [["", "score", *(["quality"] if has_quality else []), *COLUMNS]]
    best = None if choice is None else choice.reading
    named = {"now": result.now, "recommended": best, "or by class": result.by_class}
    rows += [[name, *setting(each), *cells(each)] for name, each in named.items() if each is not None]
    for place, point in enumerate(thinned(result.front, SHOWN)):
        rows.append(["" if place else "Pareto front", *setting(grid.at(*point)), *cells(grid.at(*point))])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    shape = f"{len(grid.scores)} x {len(grid.qualities)}" if has_quality else str(len(grid.scores))
    head = [
        f"raydet: thresholds of {result.config.method.name} in {result.folder.path}",
        f"  judged: {result.evidence.source}; {shape} settings",
        f"  truth: {grid.truths_per_image:.2f} boxes per image; a hit covers one of its class with IoU >= 0.5",
    ]
    verdict = [NO_CHOICE] if choice is None else [f"recommended: {result.overrides}", choice.reason]
    if result.by_class is not None:
        verdict.append(f"or by class (--apply with --per-class): {_words(result.recommended(per_class=True))}")
    if choice is not None and result.axes.thresholds.by_class is not None and result.undecided:
        verdict.append(
            f"No threshold of its own for {some(result.undecided, 5)}: fewer than {FEW_TRUTHS} true boxes here, none "
            f"of them found, or what a lower one would add is mostly wrong."
        )
    return "\n".join([*head, "", *lines, "", *verdict, *(f"note: {note}" for note in result.notes)])


def as_json(result: ThresholdResult) -> dict[str, Any]:
    """Return everything: axes, counts `[S][T][C]`, rates `[S][T]` (None where 0 / 0), and the conclusions."""
    grid, choice, thresholds = result.grid, result.choice, result.axes.thresholds
    names = result.evidence.class_names
    return {
        "run": str(result.folder.path),
        "method": result.config.method.name,
        "source": result.evidence.source,
        "notes": list(result.notes),
        "keys": {"score": thresholds.score, "quality": thresholds.quality},
        "scores": list(grid.scores),
        "qualities": list(grid.qualities),
        "classes": list(names),
        "images": grid.images,
        "true_boxes": grid.truths.tolist(),
        "true_boxes_per_image": grid.truths_per_image,
        "incomplete_labels": grid.incomplete.tolist(),
        "boxes": grid.boxes.tolist(),
        "hits": grid.hits.tolist(),
        **{
            name: [[None if np.isnan(value) else float(value) for value in row] for row in getattr(grid, name)]
            for name in ("precision", "recall", "f1", "mean_iou", "boxes_per_image")
        },
        "present": asdict(result.now),
        "recommended": choice and {**asdict(choice.reading), "overrides": result.overrides, "reason": choice.reason},
        "recommended_by_class": result.by_class
        and {**asdict(result.by_class), "overrides": _words(result.recommended(per_class=True))},
        "pareto_front": [asdict(grid.at(*point)) for point in result.front],
        "per_class": {
            names[k]: {
                "present": asdict(grid.of_class(k).at(result.own_present(k), result.present[1])),
                "recommended_for_all": choice and asdict(grid.of_class(k).at(*choice.point)),
                "recommended_for_it": own and asdict(own),
            }
            for k, own in class_readings(result)
        },
    }


def class_readings(result: ThresholdResult) -> Iterator[tuple[int, Reading | None]]:
    """Yield each class and what `own_rows` gives it; None where that leaves it out."""
    rows = result.own_rows
    for k in range(len(result.grid.truths)):
        yield k, result.grid.of_class(k).at(rows[k], result.column) if k in rows else None


def _adds_right_boxes(grid: ThresholdGrid, row: int, common: int) -> bool:
    """Return whether what a class keeps below the common threshold is right more often than wrong."""
    added, hits = (int(each[row, 0, 0] - each[common, 0, 0]) for each in (grid.boxes, grid.hits))
    return row >= common or hits >= HALF * added


def _words(settings: Mapping[str, Any]) -> str:
    """Return settings as words of a command line."""
    return " ".join(
        shlex.quote(f"{key}={json.dumps(value, ensure_ascii=False)}") if isinstance(value, dict) else f"{key}={value:g}"
        for key, value in settings.items()
    )


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Return at most so many of the points, evenly spaced, the ends included."""
    if len(points) <= most:
        return list(points)
    return [points[round(place)] for place in np.linspace(0, len(points) - 1, most)]
