"""Everything a search's report is made from, and how it writes figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raydet.sweep.definition import SweepDefinition
from raydet.sweep.results import PointSummary, TrialRow
from raydet.sweep.trial_metrics import TrialMetrics

NOTHING_YET = "No trial has been evaluated yet."


@dataclass(frozen=True, slots=True, eq=False)
class SweepInputs:
    """A search, read."""

    definition: SweepDefinition
    rows: Sequence[TrialRow]
    points: Sequence[PointSummary]
    best: PointSummary | None
    burn_ins: Sequence[TrialMetrics]  # of the shared ones

    @property
    def y_label(self) -> str:
        """Return what the figures are."""
        return f"{self.definition.metric} (%)"

    @property
    def judged(self) -> list[PointSummary]:
        """Return the points with a mean."""
        return [point for point in self.points if point.mean is not None]
