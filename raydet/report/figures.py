"""Plots as PNG bytes. Transparent, with ink that reads on a light and on a dark page; needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

INK = "#7d8590"
COLORS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#ca8a04", "#06b6d4", "#ec4899", "#84cc16", "#64748b")
SIZE_INCHES, DPI = (5.6, 3.3), 150
NOISY = 60  # curves of more points are drawn faintly, with a moving average on top
MOST_MINOR = 40  # marks
SIDE_INCHES = 4.6  # of clouds of points
NAMED = 10  # so many classes have a colour of their own, and a name
SHORT = 24  # characters of names that three fit side by side of, at the least
ROW = 64  # characters that fit side by side in a legend; beside its name an entry has a line and a gap: 5

Series = Mapping[str, tuple[Sequence[float], Sequence[float | None]]]  # name -> (x, y); None leaves a gap


@dataclass(frozen=True, slots=True)
class Marks:
    """Steps at which a run changes its nature: vertical lines."""

    major: tuple[float, ...] = ()  # dotted
    minor: tuple[float, ...] = ()  # sparsely dotted

    @property
    def all(self) -> tuple[float, ...]:
        """Return both kinds."""
        return (*self.major, *self.minor)


NO_MARKS = Marks()


def lines(
    series: Series,
    *,
    y_label: str,
    x_label: str = "step",
    marks: Marks = NO_MARKS,
    level: tuple[str, float] | None = None,
    top: float | None = None,
    strong: str = "",
    smooth: bool = True,
    spread: Mapping[str, Sequence[float | None]] | None = None,
    colors: Sequence[int] | None = None,
) -> bytes:
    """Draw curves. `marks` marks steps, `level` a named height, `top` the highest value the axis must show.

    The curve named `strong` stands out. Noisy curves get a moving average, unless `smooth` is off; it does not reach
    across marks, where curves may jump. `spread` holds the half-width of a band around curves that have one. `colors`
    gives each curve the number of its colour, so that some can share one.
    """
    figure, axes = new_axes(x_label, y_label)
    chosen = _colors(len(series)) if colors is None else [COLORS[place % len(COLORS)] for place in colors]
    for color, (name, (steps, values)) in zip(chosen, series.items(), strict=True):
        x, y = _arrays(steps, values)
        if name == strong:
            axes.plot(x, y, color=INK, linewidth=3, label=name)
        elif smooth and len(y) > NOISY:
            axes.plot(x, y, color=color, alpha=0.22, linewidth=0.7)
            axes.plot(x, _smooth(x, y, marks.all), color=color, linewidth=1.6, label=name)
        else:
            axes.plot(x, y, color=color, linewidth=1.6, marker="o", markersize=3 if len(y) < 40 else 0, label=name)
        if spread is not None and name in spread:
            _, width = _arrays(steps, spread[name])
            axes.fill_between(x, y - width, y + width, color=color, alpha=0.15, linewidth=0)
    if level is not None:
        axes.axhline(level[1], color=INK, linewidth=1, linestyle=(0, (4, 3)), label=level[0])
    _draw(marks, axes)
    low, high = axes.dataLim.intervaly
    axes.set_ylim(min(low, 0.0), 1.03 * max(high, top or 0.0) or 1.0)
    longest = max(map(len, series), default=0)
    legend(axes, len(series) + (level is not None), columns=max(3 if longest <= SHORT else 1, ROW // (longest + 5)))
    return png(figure)


def stacked(
    x: Sequence[float], parts: Mapping[str, Sequence[float | None]], *, y_label: str, marks: Marks = NO_MARKS
) -> bytes:
    """Draw parts of a whole on top of each other over `x`, smoothed like `lines`."""
    figure, axes = new_axes("step", y_label)
    heights = []
    for values in parts.values():
        steps, y = _arrays(x, values)
        heights.append(np.nan_to_num(_smooth(steps, y, marks.all) if len(y) > NOISY else y))
    axes.stackplot(x, *heights, labels=list(parts), colors=_colors(len(parts)), alpha=0.85, linewidth=0)
    axes.set_ylim(0, None)
    if len(x) > 1:
        axes.set_xlim(x[0], x[-1])
    legend(axes, len(parts))
    return png(figure)


def bars(groups: Mapping[str, Sequence[float | None]], labels: Sequence[str], *, y_label: str) -> bytes:
    """Draw a bar of each group beside the others' over each of `labels`; None leaves a gap."""
    figure, axes = new_axes("", y_label)
    width = 0.8 / max(len(groups), 1)
    places = [float(place) for place in range(len(labels))]
    for number, (color, (name, values)) in enumerate(zip(_colors(len(groups)), groups.items(), strict=True)):
        x, height = _arrays(places, values)
        axes.bar(x + (number + 0.5) * width - 0.4, np.nan_to_num(height), width, color=color, label=name)
    axes.set_xticks(places, labels)
    axes.tick_params(axis="x", labelsize=8)
    longest = max(map(len, groups), default=0)
    legend(axes, len(groups) * (len(groups) > 1), columns=max(1, ROW // (longest + 5)))
    return png(figure)


def heatmap(x: Sequence[float], columns: Sequence[np.ndarray], *, y_label: str, color_label: str) -> bytes:
    """Draw one column of 10 IoU bins per entry of `x`; each column is shown as shares of its sum."""
    figure, axes = new_axes("step", y_label)
    counts = np.stack(columns, axis=1).astype(np.float64)  # [10, len(x)]
    shares = counts / np.maximum(counts.sum(axis=0, keepdims=True), 1)
    # Columns of equal width, named by their step: windows need not be equally long.
    image = axes.imshow(shares, origin="lower", aspect="auto", cmap="viridis", extent=(-0.5, len(x) - 0.5, 0, 1))
    every = max(1, len(x) // 6)
    axes.set_xticks(range(0, len(x), every), [f"{value:.0f}" for value in x[::every]])
    axes.grid(False)
    color_bar(figure, axes, image, color_label)
    return png(figure)


def surface(
    values: np.ndarray,
    *,
    x: tuple[str, Sequence[float]],
    y: tuple[str, Sequence[float]],
    color_label: str,
    marks: Mapping[str, tuple[int, int]],
    level: tuple[str, float] | None = None,
    logarithmic: bool = False,
) -> bytes:
    """Draw a table `[len(y), len(x)]` of figures as colours; NaN stays empty.

    `x` and `y` name their axis and its values, `marks` (at most 2) points of the table (row, column), `level` a height
    whose contour is drawn.
    """
    figure, axes = new_axes(x[0], y[0])
    shown = np.ma.masked_invalid(values)
    if logarithmic:
        shown = np.ma.masked_less_equal(shown, 0)
    norm = LogNorm() if logarithmic and shown.count() else None
    image = axes.imshow(shown, origin="lower", aspect="auto", cmap="viridis", norm=norm)
    for axis, numbers in ((axes.xaxis, x[1]), (axes.yaxis, y[1])):
        every = max(1, len(numbers) // 7)
        axis.set_ticks(range(0, len(numbers), every), [f"{number:g}" for number in numbers[::every]])
    axes.grid(False)
    color_bar(figure, axes, image, color_label)
    entries = 0
    if level is not None and min(values.shape) > 1 and shown.count() and shown.min() < level[1] < shown.max():
        axes.contour(shown, levels=[level[1]], colors="white", linewidths=1.4, linestyles="dashed")
        axes.plot([], [], color=INK, linestyle="dashed", label=level[0])
        entries += 1
    for (name, (row, column)), (shape, fill) in zip(marks.items(), (("o", "none"), ("*", COLORS[4])), strict=False):
        size = 15 if shape == "*" else 9
        axes.plot(
            column, row, shape, markersize=size, markerfacecolor=fill, markeredgecolor="white", markeredgewidth=1.6
        )
        axes.plot([], [], shape, markersize=9, markerfacecolor=fill, markeredgecolor=INK, label=name)
    legend(axes, entries + len(marks))
    return png(figure)


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


def new_axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """Return an empty plot in the report's style."""
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.tick_params(colors=INK, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(INK)
    axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    return figure, axes


def color_bar(figure: Figure, axes: Axes, colors: ScalarMappable, label: str) -> None:
    """Add the bar that says what colours mean."""
    bar = figure.colorbar(colors, ax=axes, pad=0.02)
    bar.set_label(label, color=INK)
    bar.ax.tick_params(which="both", colors=INK, length=0)
    bar.outline.set_visible(False)


def legend(axes: Axes, entries: int, columns: int = 3) -> None:
    """Name what was drawn, above the plot; nothing where there are no `entries`."""
    if entries:
        options = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": min(entries, columns), "fontsize": 9}
        axes.legend(frameon=False, labelcolor=INK, handlelength=1.4, columnspacing=1.2, **options)


def _colors(number: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(number)]


def _arrays(x: Sequence[float], values: Sequence[float | None]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(x, dtype=np.float64), np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def _draw(marks: Marks, axes: Axes) -> None:
    """Draw vertical lines where marks lie inside what is drawn; more than a few of the minor ones would hide it."""
    first, last = axes.dataLim.intervalx
    for steps, style in ((marks.major, ":"), (marks.minor if len(marks.minor) <= MOST_MINOR else (), (0, (1, 5)))):
        for step in steps:
            if first <= step <= last:
                axes.axvline(step, color=INK, linewidth=1, linestyle=style)


def _smooth(x: np.ndarray, y: np.ndarray, jumps: Sequence[float]) -> np.ndarray:
    """Return the moving average of `y`, apart for the values up to each step of `jumps` and beyond the last."""
    smooth = np.empty_like(y)
    part_of = np.searchsorted(np.array(sorted(jumps), dtype=np.float64), x)
    for part in np.unique(part_of):
        own = part_of == part
        smooth[own] = _moving_average(y[own], max(1, len(y) // 40))
    return smooth


def _moving_average(y: np.ndarray, width: int) -> np.ndarray:
    """Return the mean of the `2 * width + 1` neighbours of each value, fewer at the ends; gaps do not count."""
    kernel = np.ones(2 * width + 1)
    known = np.isfinite(y)
    total = np.convolve(np.where(known, y, 0.0), kernel)[width : width + len(y)]
    number = np.convolve(known.astype(np.float64), kernel)[width : width + len(y)]
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def png(figure: Figure) -> bytes:
    """Return the picture as a file's bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", transparent=True)
    return stream.getvalue()
