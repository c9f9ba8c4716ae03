"""How far a run has come and what it has reached, from its records; fed one by one, so that nothing is read twice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from raydet.metrics import Record, parse_record, read_metrics


@dataclass(slots=True)
class Course:
    """What a run's records say so far. Seconds are time at work: those between two attempts do not count."""

    step: int = 0
    steps: int = 0  # that the run is to make; 0 before its first record
    seconds: float = 0.0
    burn_in_seconds: float = 0.0  # the part of `seconds` up to the burn-in's end; 0 in a run forked from there
    evals: dict[int, Record] = field(default_factory=dict)  # step -> what the run is judged by
    _burn_in_steps: int = 0
    _since: float | None = None

    @staticmethod
    def read(metrics: Path) -> Course:
        """Return the course of a whole metrics file. Raises ValueError where a line of it is damaged."""
        return Course().fed(read_metrics(metrics))

    def fed(self, records: Iterable[Record]) -> Course:
        """Take in records, oldest first, and return the course itself."""
        for record in records:
            self._take(record)
        return self

    def is_judged(self, record: Record) -> bool:
        """Whether a record is what the run is judged by: its teacher on val; its student until there is a teacher."""
        judged = "teacher" if record["step"] > self._burn_in_steps else "student"
        return bool(record["kind"] == "eval" and record["split"] == "val" and record["model"] == judged)

    def newest(self) -> Record:
        """Return the newest val evaluation, an empty record before the first."""
        return self.evals[max(self.evals)] if self.evals else {}

    def curve(self, figure: str) -> tuple[tuple[int, float | None], ...]:
        """Return (step, value) of every val evaluation, in order; shares, None where the figure does not exist."""
        return tuple((step, self.evals[step].get(figure)) for step in sorted(self.evals))

    def _take(self, record: Record) -> None:
        step, now = record["step"], record["time"]
        if record["kind"] == "start":
            self.steps, self._burn_in_steps = record.get("steps", self.steps), record.get("burn_in_steps", 0)
            self.evals = {at: each for at, each in self.evals.items() if at <= step}  # a resumed run measures them anew
        elif self._since is not None:
            self.seconds += now - self._since
            if step <= self._burn_in_steps:
                self.burn_in_seconds += now - self._since
        self.step, self._since = step, now
        if self.is_judged(record):
            self.evals[step] = {name: value for name, value in record.items() if name != "per_class"}  # it is large


def newest_figure(metrics: Path, figure: str) -> float | None:
    """Return the newest val figure of a run, None where there is none; parses nothing but evaluations."""
    try:
        lines = metrics.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    course = Course().fed(parse_record(line, str(metrics)) for line in lines if b'"eval"' in line or b'"start"' in line)
    return course.newest().get(figure)
