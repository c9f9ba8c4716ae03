"""A run, whatever it trains, as far as its records tell of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raydet.config.run import RunConfig
from raydet.metrics import Record


@dataclass(frozen=True, slots=True, eq=False)
class RunRecords:
    """A run, whatever it trains, as far as its records tell of it."""

    folder: Path
    config: RunConfig
    records: list[Record]

    def kind(self, kind: str) -> list[Record]:
        """Return the records of one kind, in order."""
        return [record for record in self.records if record["kind"] == kind]

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """Return the steps at which the run changes its nature, for plots: here the end of the burn-in, if any."""
        burn_in = self.config.method.burn_in_steps
        return (burn_in,) if burn_in else ()

    @property
    def repredictions(self) -> tuple[int, ...]:
        """Return the steps at which pseudo-labels are predicted anew, where these are few."""
        return ()

    @property
    def num_unlabeled(self) -> int | None:
        """Return how many unlabelled images there are, None where that is not known."""
        return None
