"""What a curve of evaluations says: still rising at its end, or past its best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raydet.contract import Finding
from raydet.report.inputs import Point, RunRecords
from raydet.text import percent

LEAST = 4  # evaluations that a slope is fitted to
CLEAR = 0.01  # a rise of less than a point is none
SURE = 2.0  # standard errors of the slope
LOST = 0.02  # two points below the best are a fall


@dataclass(frozen=True, slots=True)
class Rise:
    """A rise over the last half of a curve."""

    first: int  # step
    last: int
    evaluations: int
    rise: float  # of the fitted line over these steps, a share

    @property
    def figures(self) -> dict[str, str]:
        """Return what it was concluded from."""
        steps = f"steps {self.first} to {self.last}"
        return {f"rise over {steps}": f"+{percent(self.rise)}", "evaluations there": str(self.evaluations)}


def rise_of(points: Sequence[Point]) -> Rise | None:
    """Return the rise over the last half of a curve, at least `LEAST` points of it; None where it is not clear.

    A line is fitted by least squares; it must rise by `CLEAR` or more, and by `SURE` standard errors of its slope.
    """
    own = points[-max(LEAST, (len(points) + 1) // 2) :]
    if len(own) < LEAST or own[0][0] == own[-1][0]:
        return None
    x, y = (np.array(column, dtype=np.float64) for column in zip(*own, strict=True))
    x_off = x - x.mean()
    spread = float((x_off**2).sum())
    slope = float((x_off * y).sum()) / spread
    rest = y - y.mean() - slope * x_off
    error = float(np.sqrt((rest**2).sum() / (len(own) - 2) / spread))
    rise = slope * float(x[-1] - x[0])
    if rise < CLEAR - 1e-12 or slope < SURE * error:
        return None
    return Rise(int(x[0]), int(x[-1]), len(own), rise)


def curve_findings(run: RunRecords, control: RunRecords | None) -> list[Finding]:
    """Say where a run, its burn-in or its control had not finished learning, and where a run is past its best.

    Of a run that has not come to its end, only how it is going so far.
    """
    name, burn_in = run.figure, run.config.method.burn_in_steps
    found = []
    if (rise := rise_of(_trained(run))) is not None:
        sentence = f"{name} was still rising when the run ended: train longer (optim.steps)."
        if not is_done(run):
            sentence = f"{name} has been rising so far: the run has not come to its end, step {run.config.length}."
        found.append(Finding(sentence, rise.figures))
    elif (best := past_best(run.points)) is not None:
        (step, value), (last_step, last) = best, run.points[-1]
        sentence = (
            f"{name} is past its best: the checkpoint of step {step} is kept as the best one; use it, or stop there "
            f"(run.stop_at)."
        )
        found.append(Finding(sentence, {f"at step {step}": percent(value), f"at step {last_step}": percent(last)}))
    before = [point for point in run.points if point[0] <= burn_in]
    if run.config.uses_labels and not is_past_burn_in(run):
        return found  # neither has the burn-in ended, nor is there a gain over the control
    if run.config.uses_labels and (rise := rise_of(before)) is not None:
        sentence = (
            f"The burn-in ended while {name} was still rising: a longer one (method.burn_in_steps) gives a better "
            f"first teacher."
        )
        found.append(Finding(sentence, rise.figures))
    if control is not None and (rise := rise_of([p for p in _trained(control) if p[0] > burn_in])) is not None:
        sentence = (
            "The control was still rising too: the gain is one over a network that had more to learn from its labels, "
            "and may shrink or grow. Train both until the control stands still."
        )
        found.append(Finding(sentence, rise.figures))
    return found


def _trained(run: RunRecords) -> list[Point]:
    """Return the figures of the training that is meant to go on: from after the burn-in, where pseudo-labels come then;
    else all, where nothing was averaged before the end."""
    after = [point for point in run.points if point[0] > run.config.method.burn_in_steps]
    return after if after or run.config.uses_labels else list(run.points)


def is_past_burn_in(run: RunRecords) -> bool:
    """Whether there is a figure from after the burn-in: before that no figure is its last one."""
    return any(step > run.config.method.burn_in_steps for step, _ in run.points)


def is_done(run: RunRecords) -> bool:
    """Whether the run has come to its end; one that runs, was killed or stopped, or reached run.stop_at has not."""
    last = next((each for each in reversed(run.records) if each["kind"] in ("start", "end")), None)
    return last is not None and last["kind"] == "end" and last["reason"] == "done"


def past_best(points: Sequence[Point]) -> Point | None:
    """Return the best point where a curve has fallen by `LOST` or more since, over two evaluations or more."""
    if len(points) < LEAST:
        return None
    place = max(range(len(points)), key=lambda i: (points[i][1], -i))
    has_fallen = points[place][1] - points[-1][1] >= LOST - 1e-12
    return points[place] if has_fallen and place <= len(points) - 3 else None
