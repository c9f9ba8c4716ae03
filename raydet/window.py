"""Figures of one rank between two lines of the log."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


def _zeros() -> defaultdict[str, float]:
    return defaultdict(float)


@dataclass(slots=True)
class Window:
    """Sums and maxima by name; plain numbers, so that windows of several ranks can be added."""

    steps: int = 0
    sums: defaultdict[str, float] = field(default_factory=_zeros)
    highest: dict[str, float] = field(default_factory=dict)
    per_class: Counter[int] = field(default_factory=Counter)

    def increase(self, by: Mapping[str, float]) -> None:
        """Add to sums."""
        for name, value in by.items():
            self.sums[name] += value

    def raise_to(self, name: str, value: float) -> None:
        """Take part in a maximum."""
        self.highest[name] = max(self.highest.get(name, 0.0), value)

    def merged(self, others: list[Window]) -> Window:
        """Return the figures of all ranks, this one among them."""
        total = Window(steps=self.steps)
        for window in others:
            total.increase(window.sums)
            total.per_class.update(window.per_class)
            for name, value in window.highest.items():
                total.raise_to(name, value)
        return total

    def means(self, names: Mapping[str, str]) -> dict[str, float]:
        """Return what `PerImageStats` has added as means over the images that have a figure; `names`: of
        `Outputs.per_view` -> in the log. What no image has is left out."""
        sums = self.sums
        known = {name: shown for name, shown in names.items() if sums.get(f"count/{name}")}
        return {shown: sums[f"sum/{name}"] / sums[f"count/{name}"] for name, shown in known.items()}


@dataclass(slots=True)
class PerImageStats:
    """What one step's forward said of each image: figures `[B]`, NaN where an image has none."""

    images: int
    per_view: dict[str, Tensor] = field(default_factory=dict)

    def observe(self, per_view: Mapping[str, Tensor]) -> None:
        """Take in the figures."""
        self.per_view = {name: rows.float().cpu() for name, rows in per_view.items()}

    def add_to(self, window: Window) -> None:
        """Add the figures to those since the last line of the log; every image counts as one of `images`."""
        window.increase({"images": self.images})
        for name, rows in self.per_view.items():
            known = rows[rows.isfinite()]
            window.increase({f"sum/{name}": float(known.sum()), f"count/{name}": len(known)})
