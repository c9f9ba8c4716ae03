"""A run, whatever it trains, as far as its records tell of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raydet.config.run import RunConfig
from raydet.errors import UserError
from raydet.metrics import Record, judged, read_metrics
from raydet.registry import build_method
from raydet.train.rundir import RunFolder

Point = tuple[int, float]  # step, share


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a run between two of its stage ends: steps `first` (excluded) to `last`."""

    name: str
    first: int
    last: int


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
    def judged(self) -> list[Record]:
        """Return the val evaluations that the run is judged by, in order."""
        return judged(self.records)

    @property
    def figure(self) -> str:
        """Return the name of the figure that decides."""
        return self.config.figures[0]

    @property
    def points(self) -> list[Point]:
        """Return the deciding figure over steps, where it is defined."""
        known = [(record["step"], record.get(self.figure)) for record in self.judged]
        return [(step, value) for step, value in known if value is not None]

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """Return the steps at which the run changes its nature, ascending, without its end."""
        ends = build_method(self.config).stage_ends
        return tuple(sorted({end for end in ends if 0 < end < self.config.length}))

    @property
    def spans(self) -> list[Span]:
        """Return the stages in order; where the family's stages have no names, they have that of the method."""
        ends = (0, *self.stage_ends, self.config.length)
        return [Span(self._stage_name(first, last), first, last) for first, last in zip(ends, ends[1:], strict=False)]

    @property
    def repredictions(self) -> tuple[int, ...]:
        """Return the steps at which pseudo-labels are predicted anew, where these are few."""
        return ()

    @property
    def num_unlabeled(self) -> int | None:
        """Return how many unlabelled images there are, None where that is not known."""
        return None

    def _stage_name(self, first: int, last: int) -> str:
        name = build_method(self.config).stage_name(first) or self.config.method.name
        return f"{name}, with repredictions" if any(first <= step < last for step in self.repredictions) else name


def read_records(run_dir: Path) -> RunRecords:
    """Read a run's configuration and records. Raises UserError where it is none, or what it holds is damaged."""
    folder = RunFolder(run_dir)
    config = folder.load_config()
    try:
        return RunRecords(folder.path, config, read_metrics(folder.metrics))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder.path}: its figures cannot be read: {error}") from None
