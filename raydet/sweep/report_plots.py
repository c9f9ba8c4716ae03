"""The plots of a search's report, as PNG bytes in the style of a run's report; needs matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from raydet.report.figures import COLORS, INK, color_bar, legend, new_axes, png
from raydet.sweep.definition import value_text

DECADES = 10.0  # values that span more than this factor get a logarithmic axis
TICKS = 8  # so many different values are all named
NAMED_CURVES = 9
Mean = tuple[Any, float, float | None]  # value of the key, mean in percent, standard deviation


@dataclass(frozen=True, slots=True)
class Scale:
    """Where the values of one swept key lie on an axis."""

    name: str
    values: tuple[Any, ...]  # different ones: numbers ascending, anything else in order of appearance
    is_numeric: bool
    is_log: bool

    @staticmethod
    def of(name: str, values: Sequence[Any]) -> Scale:
        """Return the scale for all values of a key."""
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            numbers = sorted(set(values))
            return Scale(name, tuple(numbers), True, numbers[0] > 0 and numbers[-1] >= DECADES * numbers[0])
        different = [value for i, value in enumerate(values) if value not in values[:i]]
        return Scale(name, tuple(different), False, False)

    def place(self, value: Any) -> float:
        """Return where a value lies: itself, or its index where values are no numbers."""
        return float(value) if self.is_numeric else float(self.values.index(value))

    def apply(self, axes: Axes) -> None:
        """Scale the x axis of a plot and name its values."""
        axis = axes.xaxis
        if self.is_log:
            axes.set_xscale("log")
            is_wide = self.values[-1] > 1000 * self.values[0]
            axis.set_major_locator(LogLocator(subs=(1.0,) if is_wide else (1.0, 2.0, 5.0)))
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter(NullFormatter())
            axis.set_tick_params(which="minor", length=0)
        if not self.is_numeric or len(self.values) <= TICKS:
            labels = [textwrap.fill(value_text(value), 16) for value in self.values]
            axis.set_ticks([self.place(value) for value in self.values], labels)


def effect(
    scale: Scale, done: Sequence[tuple[Any, float]], stopped: Sequence[tuple[Any, float]], means: Sequence[Mean], y: str
) -> bytes:
    """Draw a figure against one key: a dot per trial, hollow where the scheduler stopped it, and the line of means."""
    figure, axes = new_axes(scale.name, y)
    if done:
        _dots(axes, scale, done, "trial", color=COLORS[0], alpha=0.6)
    if stopped:
        _dots(axes, scale, stopped, "stopped early", markerfacecolor="none", color=INK)
    if means:
        _curve(axes, scale, means, "mean", COLORS[1])
    _frame(axes, scale)
    legend(axes, bool(done) + bool(stopped) + bool(means))
    return png(figure)


def beside(scale: Scale, curves: Mapping[str, Sequence[Mean]], y: str) -> bytes:
    """Draw a few curves over one key, each as differences to its own mean."""
    figure, axes = new_axes(scale.name, y)
    axes.axhline(0, color=INK, linewidth=0.8)
    for (name, curve), color in zip(curves.items(), COLORS, strict=False):
        _curve(axes, scale, curve, name, color)
    _frame(axes, scale)
    legend(axes, len(curves))
    return png(figure)


def grid_map(x: Scale, y: Scale, cells: Mapping[tuple[int, int], float], label: str) -> bytes:
    """Draw figures over a grid of two keys; `cells` maps (row, column) to percent, missing ones stay empty."""
    figure, axes = new_axes(x.name, y.name)
    table = np.full((len(y.values), len(x.values)), np.nan)
    for cell, value in cells.items():
        table[cell] = value
    image = axes.imshow(table, origin="lower", aspect="auto", cmap="viridis")
    middle = (np.nanmin(table) + np.nanmax(table)) / 2
    for (row, column), value in cells.items():
        color = "#111111" if value > middle else "#ffffff"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=color, fontsize=9)
    for axis, scale in ((axes.xaxis, x), (axes.yaxis, y)):
        axis.set_ticks(range(len(scale.values)), [value_text(value) for value in scale.values])
    axes.grid(False)
    color_bar(figure, axes, image, label)
    return png(figure)


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """One trial's figure over its steps."""

    point: str
    steps: Sequence[float]
    values: Sequence[float]
    is_done: bool
    is_best: bool


def learning(curves: Sequence[LearningCurve], y: str, burn_in: float | None) -> bytes:
    """Draw all trials; few points get a colour each, of many only the best one. Unfinished trials are dashed."""
    figure, axes = new_axes("step", y)
    points = list(dict.fromkeys(curve.point for curve in curves))
    color_of = {point: COLORS[i % len(COLORS)] for i, point in enumerate(points)}
    if len(points) > NAMED_CURVES:
        color_of = {curve.point: COLORS[1] if curve.is_best else INK for curve in curves}
    named: set[str] = set()
    for curve in curves:
        is_loud = curve.is_best or len(points) <= NAMED_CURVES
        label = None
        if is_loud and curve.point not in named:
            named.add(curve.point)
            label = f"{curve.point} (best)" if curve.is_best else curve.point
        axes.plot(
            curve.steps, curve.values, label=label, color=color_of[curve.point], alpha=0.95 if is_loud else 0.4,
            linewidth=2.4 if curve.is_best else 1.2, linestyle="-" if curve.is_done else (0, (3, 2)),
            marker="o" if len(curve.steps) < 3 else "", markersize=3, zorder=3 if curve.is_best else 2,
        )  # fmt: skip
    if burn_in is not None:
        axes.axvline(burn_in, color=INK, linewidth=1, linestyle=":")
    legend(axes, len(named))
    return png(figure)


def _dots(axes: Axes, scale: Scale, trials: Sequence[tuple[Any, float]], label: str, **style: Any) -> None:
    x = [scale.place(value) for value, _ in trials]
    axes.plot(x, [figure for _, figure in trials], "o", markersize=5, label=label, zorder=4, **style)


def _curve(axes: Axes, scale: Scale, means: Sequence[Mean], label: str, color: str) -> None:
    ordered = sorted(means, key=lambda each: scale.place(each[0]))
    x, y = [scale.place(value) for value, _, _ in ordered], [mean for _, mean, _ in ordered]
    # Names have no order, so no line joins them; nor does it join a single point.
    line = "-" if scale.is_numeric else "none"
    axes.plot(x, y, linestyle=line, marker="D", markersize=5, linewidth=1.6, color=color, label=label, zorder=3)
    spreads = [(place, mean, sd) for place, (_, mean, sd) in zip(x, ordered, strict=True) if sd is not None]
    if spreads:
        place, mean, sd = zip(*spreads, strict=True)
        axes.errorbar(place, mean, sd, fmt="none", ecolor=color, elinewidth=1.2, capsize=3, alpha=0.8)


def _frame(axes: Axes, scale: Scale) -> None:
    scale.apply(axes)
    axes.margins(x=0.06, y=0.12)
    if not scale.is_numeric:
        axes.set_xlim(-0.5, len(scale.values) - 0.5)
