"""How far a run has come and what it has reached, from its records; fed one by one, so that nothing is read twice."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from raydet.metrics import Record, parse_record

STEP_RECORD = b'{"kind": "step"'  # as it begins in a metrics file


def step_curve(metrics: Path, name: str, *, most: int = 60) -> list[tuple[float, float]]:
    """Return (step, value) of a metric of steps, means of `most` equal stretches; none where no step has it.

    Of a resumed run the later record of a step counts. Raises ValueError where a line that has it is damaged.
    """
    wanted, known = json.dumps(name).encode(), dict[int, float]()
    for line in metrics.read_bytes().split(b"\n")[:-1] if metrics.exists() else []:
        if line.startswith(STEP_RECORD) and wanted in line:
            record = parse_record(line, str(metrics))
            if record.get(name) is not None:
                known[record["step"]] = float(record[name])
    steps = sorted(known)
    size = max(1, -(-len(steps) // most))
    parts = [steps[i : i + size] for i in range(0, len(steps), size)]
    return [(statistics.fmean(part), statistics.fmean(known[step] for step in part)) for part in parts]


@dataclass(slots=True)
class TrialMetrics:
    """What a run's records say so far. Seconds are time at work: those between two attempts do not count."""

    step: int = 0
    steps: int = 0  # that the run is to make; 0 before its first record
    seconds: float = 0.0
    burn_in_seconds: float = 0.0  # the part of `seconds` up to the burn-in's end; 0 in a run forked from there
    evals: dict[int, Record] = field(default_factory=dict)  # step -> what the run is judged by
    _burn_in_steps: int = 0
    _judged: str = "teacher"  # the model that counts after the burn-in
    _since: float | None = None

    @staticmethod
    def read(metrics: Path) -> TrialMetrics:
        """Return what a run's metrics file says; a run without one has not come far.

        Of the records of steps, which are nearly all, only the last is read: it says how far the run is, and the time
        is in the others as well. Raises ValueError where a line is damaged.
        """
        try:
            *lines, _ = metrics.read_bytes().split(b"\n")  # the last one is empty or unfinished
        except FileNotFoundError:
            return TrialMetrics()
        telling = [line for line in lines[:-1] if not line.startswith(STEP_RECORD)] + lines[-1:]
        return TrialMetrics().fed(parse_record(line, str(metrics)) for line in telling)

    def fed(self, records: Iterable[Record]) -> TrialMetrics:
        """Take in records, oldest first, and return this object."""
        for record in records:
            self._take(record)
        return self

    def is_judged(self, record: Record) -> bool:
        """Whether a record is what the run is judged by: its teacher on val; its student where there is no teacher."""
        judged = self._judged if record["step"] > self._burn_in_steps else "student"
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
            self._judged = record.get("judged", "teacher")
            self.evals = {at: each for at, each in self.evals.items() if at <= step}  # a resumed run measures them anew
        elif self._since is not None:
            self.seconds += now - self._since
            if step <= self._burn_in_steps:
                self.burn_in_seconds += now - self._since
        self.step, self._since = step, now
        if self.is_judged(record):
            self.evals[step] = {name: value for name, value in record.items() if name != "per_class"}  # it is large
