"""Differences of runs that have their beginning in common, over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from raydet.metrics import Record
from raydet.report.gain import Gain
from raydet.report.inputs import RunRecords
from raydet.text import plural, signed_percent


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A run beside its control."""

    run: RunRecords
    control: RunRecords
    shared: str  # what both started from; see `raydet.report.lineage`
    gain: Gain

    def of_class(self, name: str) -> float | None:
        """Return the difference on one class; None where it is undefined."""
        values = [record.get("per_class", {}).get(name, {}).get(self.gain.figure) for record in self._records]
        return None if None in values else float(values[0] - values[1])

    @property
    def _records(self) -> tuple[Record, Record]:
        return self.gain.ours, self.gain.theirs


@dataclass(frozen=True, slots=True)
class PairedGain:
    """The differences of several pairs; shares."""

    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return their mean."""
        return statistics.fmean(self.differences)

    @property
    def sd(self) -> float | None:
        """Return their sample standard deviation; None below two."""
        return statistics.stdev(self.differences) if len(self.differences) > 1 else None

    @property
    def error(self) -> float | None:
        """Return the standard error of the mean; None below two."""
        return None if self.sd is None else self.sd / math.sqrt(len(self.differences))

    @property
    def positive(self) -> int:
        """Return how many are above 0."""
        return sum(each > 0 for each in self.differences)

    def as_text(self, figure: str) -> str:
        """Return all of it in words, in percent points of a figure."""
        mean = f"{signed_percent(self.mean)} points of {figure}"
        if self.error is None:
            return f"{mean} (one pair: seeds differ by as much as a point or two)"
        every = ", ".join(signed_percent(each) for each in self.differences)
        return (
            f"{mean}, mean of {plural(len(self.differences), 'pair')} ({every}); standard error "
            f"{100 * self.error:.1f}; above 0 in {self.positive} of {len(self.differences)}"
        )


def paired_gain(pairs: Sequence[Pair]) -> PairedGain:
    """Return the differences of pairs."""
    return PairedGain(tuple(pair.gain.difference for pair in pairs))
