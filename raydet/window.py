"""Figures of one rank between two lines of the log."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field


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
