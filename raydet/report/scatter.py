"""Clouds of points as PNG bytes, in the style of the other plots; needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydet.report.figures import COLORS, INK, legend, new_axes, png

SIDE_INCHES = 4.6
NAMED = 10  # so many classes have a colour of their own, and a name


def against(x: NDArray[Any], y: NDArray[Any], *, x_label: str, y_label: str, line: str) -> bytes:
    """Draw points of shares `[n]` over the unit square, and the diagonal, named `line`, where the two are equal."""
    figure, axes = new_axes(x_label, y_label)
    figure.set_size_inches(SIDE_INCHES, SIDE_INCHES)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label=line)
    axes.plot(x, y, ".", color=COLORS[0], alpha=0.5, markersize=5, label="images")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    legend(axes, 2)
    return png(figure)


def by_class(points: NDArray[Any], classes: NDArray[Any], names: Sequence[str], *, frame: NDArray[Any]) -> bytes:
    """Draw points `[n, 2]` coloured by class `[n]`, -1 where it is not known; the axes hold the points of `frame`."""
    figure, axes = new_axes("feature 1", "feature 2")
    figure.set_size_inches(SIDE_INCHES, SIDE_INCHES + 0.6)
    unknown = classes < 0
    axes.plot(*points[unknown].T, ".", color=INK, alpha=0.4, markersize=4)
    present = np.unique(classes[~unknown]).tolist()
    for label in present:
        color = COLORS[label % len(COLORS)]
        own = points[classes == label]
        axes.plot(
            *own.T, ".", color=color, alpha=0.8, markersize=5, label=names[label] if len(names) <= NAMED else None
        )
    finite = frame[np.isfinite(frame).all(axis=1)]
    if len(finite):
        low, high = finite.min(axis=0), finite.max(axis=0)
        room = 0.05 * np.maximum(high - low, 1e-6)
        axes.set_xlim(low[0] - room[0], high[0] + room[0])
        axes.set_ylim(low[1] - room[1], high[1] + room[1])
    legend(axes, len(present) if len(names) <= NAMED else 0, columns=5)
    return png(figure)
