"""Which point of a threshold grid to take: the Pareto front of precision and recall, and one recommendation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raydet.families.detection.thresholds.count import Counts, Floats, Reading, ThresholdGrid
from raydet.text import plural

CLOSE = 1.25  # pseudo-boxes per true box, or its inverse: so far a point counts as close to the true density
PAID = 0.7  # share of right boxes from which on pseudo-labels paid in most runs (benchmarks/ssod_small.md)
HALF = 0.5  # share of right boxes below which labels teach more wrong than right
FEW_TRUTHS = 20  # true boxes of a class; a threshold that fewer suggest is an accident

Mask = NDArray[np.bool_]
Point = tuple[int, int]  # row (score) and column (quality) of the grid


@dataclass(frozen=True, slots=True)
class Choice:
    """A recommended point."""

    point: Point
    reading: Reading
    reason: str  # one sentence with the figures
    cautions: tuple[str, ...]  # what speaks against trusting it


def pareto_front(grid: ThresholdGrid) -> list[Point]:
    """Return the points that no other one beats in precision or recall without losing in the other; recall falls.

    Of points with the same figures the one with the lowest thresholds stands for all. Points without a hit, and those
    where labels are incomplete, are left out.
    """
    precision, recall = grid.precision, grid.recall
    points = _points(_usable(grid))
    front: list[Point] = []
    best = -1.0
    for point in sorted(points, key=lambda at: (-recall[at], -precision[at], at)):
        if precision[point] > best:
            best = float(precision[point])
            front.append(point)
    return front


def recommend(grid: ThresholdGrid, present: Point) -> Choice | None:
    """Recommend a point: about as many pseudo-boxes as there are objects, and of such points the most precise.

    A student that sees far fewer boxes than there are learns objects as background, one that sees far more learns
    background as objects. So only points within a factor of `CLOSE` of the true boxes per image count (where there is
    none, the nearest ones). The highest precision wins, then the highest recall, then the point closest to the present
    one; what lies within a standard error of the highest counts as equal. None where there are no true boxes, or no
    point with complete labels has a hit.
    """
    boxes, truths, precision = grid.boxes.sum(axis=2), int(grid.truths.sum()), grid.precision
    usable = _usable(grid)
    if not truths or not usable.any():
        return None
    excess = np.full(boxes.shape, np.inf)
    excess[usable] = np.abs(np.log(boxes[usable] / truths))
    is_close = bool(excess.min() <= np.log(CLOSE))
    near = excess <= (np.log(CLOSE) if is_close else excess.min())
    precise, error = _highest(precision, near, boxes)
    found, _ = _highest(grid.recall, precise, np.full(boxes.shape, truths))
    row, column = min(_points(found), key=lambda at: (_distance(grid, at, present), -precision[at]))
    chosen = grid.at(row, column)
    return Choice(
        (row, column), chosen, _reason(grid, chosen, error, is_close), _cautions(grid, (row, column), is_close)
    )


def _highest(rate: Floats, among: Mask, counts: Counts) -> tuple[Mask, float]:
    """Return the points `[S, T]` that have the highest rate up to its standard error, and that error."""
    best = max(_points(among), key=lambda at: (rate[at], counts[at]))
    error = float(np.sqrt(rate[best] * (1 - rate[best]) / counts[best]))
    return among & (np.nan_to_num(rate, nan=-1.0) >= rate[best] - error), error


def _points(mask: Mask) -> list[Point]:
    return [(int(row), int(column)) for row, column in np.argwhere(mask)]


def _distance(grid: ThresholdGrid, a: Point, b: Point) -> float:
    """Return by how much two settings differ, both thresholds together."""
    qualities = [0.0 if quality is None else quality for quality in grid.qualities]
    return round(abs(grid.scores[a[0]] - grid.scores[b[0]]) + abs(qualities[a[1]] - qualities[b[1]]), 9)


def _usable(grid: ThresholdGrid) -> Mask:
    """Return the points `[S, T]` that have a hit, and whose labels are complete."""
    usable: Mask = (grid.hits.sum(axis=2) > 0) & (grid.incomplete == 0)[:, None]
    return usable


def _reason(grid: ThresholdGrid, chosen: Reading, error: float, is_close: bool) -> str:
    where = f"within a factor of {CLOSE:g}" if is_close else "no setting that finds a true box comes closer"
    return (
        f"{chosen.boxes_per_image:.2f} pseudo-boxes per image against {grid.truths_per_image:.2f} true ones ({where}); "
        f"of settings like that none is more precise than {chosen.precision:.1%} by more than a standard error "
        f"({error:.1%}), and none as precise finds clearly more than {chosen.recall:.1%} of the true boxes."
    )


def _cautions(grid: ThresholdGrid, point: Point, is_close: bool) -> tuple[str, ...]:
    chosen = grid.at(*point)
    assert chosen.precision is not None
    found = []
    if chosen.precision < HALF:
        found.append("More than half of the pseudo-boxes are wrong even there: let the burn-in last longer.")
    elif chosen.precision < PAID:
        found.append(
            f"Labels of which {chosen.precision:.0%} are right brought nothing, or cost AP, where that was measured "
            f"(benchmarks/ssod_small.md; from {PAID:.0%} on they paid in most runs): a longer burn-in or more labels "
            f"may serve better."
        )
    if not is_close:
        found.append(
            f"No setting that finds a true box keeps as many boxes as there are objects, not even within a factor of "
            f"{CLOSE:g}."
        )
    edges = [
        name
        for name, place, length in (("score", point[0], len(grid.scores)), ("quality", point[1], len(grid.qualities)))
        if length > 1 and place in (0, length - 1)
    ]
    if edges:
        found.append(f"It lies at the edge of the grid ({', '.join(edges)}): a wider --grid may find a better one.")
    if grid.truths.sum() < 10 * FEW_TRUTHS:
        found.append(f"It rests on {plural(int(grid.truths.sum()), 'true box')} only.")
    return tuple(found)
