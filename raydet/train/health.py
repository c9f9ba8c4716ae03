"""Whether a run still learns, or has diverged: its loss against the median of what it was.

A loss that is not finite comes last; it grows for a few steps before. What is seen here is the step's weighted loss
over all ranks, so every rank comes to the same verdict, and the state is saved with the weights: a resumed run judges
as one that was never interrupted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Any

WINDOW = 64  # healthy losses that the median is taken over
FLOOR = 1.0  # of the median: what a run ends with may be 0.001, and 0.01 is then no divergence
PATIENCE = 50  # steps above the bound in a row, after which the run ends; a rise before them does not count


@dataclass(slots=True)
class Health:
    """What is known of the loss so far. Losses above the bound do not count for the median, or it would follow them.

    Between the calm and the bound lies what may be noise, or the beginning of the end: only what comes after tells.
    """

    ratio: float | None  # `optim.divergence_ratio`; None: never diverged
    recent: list[float] = field(default_factory=list)  # the newest healthy losses
    rising_since: int | None = None  # steps completed when the weights first gave a loss that was not calm
    since: int | None = None  # the same where the loss is above the bound: the first weights not to go on from
    above: int = 0  # losses above the bound in a row, up to the newest
    loss: float | None = None  # the newest
    before: float | None = None  # the median that the stage before ended with

    @property
    def median(self) -> float | None:
        """Return the stage's running median, or the last one of the stage before; None before the first step."""
        return median(self.recent) if self.recent else self.before

    @property
    def bound(self) -> float:
        """Return the loss from which on the run counts as diverged; infinite before the first step."""
        usual = self.median
        return math.inf if self.ratio is None or usual is None else self.ratio * max(usual, FLOOR)

    @property
    def is_healthy(self) -> bool:
        """Whether the newest loss was below the bound."""
        return self.since is None

    def begin_stage(self) -> None:
        """Forget the losses of a stage that ends: another one may have other terms. Its median judges one more loss."""
        self.before, self.recent = self.median, []

    def observe(self, step: int, loss: float) -> bool:
        """Take in the loss of the step after `step` completed ones; return whether it is the first above the bound."""
        bound = self.bound
        calm = bound / math.sqrt(self.ratio or 1.0) if self.recent else bound
        self.loss = loss
        self.rising_since = None if loss <= calm else step if self.rising_since is None else self.rising_since
        if loss <= bound:
            self.recent = [*self.recent[1 - WINDOW :], loss]
            self.since, self.above = None, 0
            return False
        self.above += 1
        is_new, self.since = self.since is None, self.rising_since if self.since is None else self.since
        return is_new

    @property
    def is_hopeless(self) -> bool:
        """Whether so many losses were above the bound that more change nothing."""
        return self.above >= PATIENCE

    def record(self) -> dict[str, Any]:
        """Return it as plain values, for a checkpoint."""
        return {"healthy": self.is_healthy, "loss": self.loss, "recent": self.recent} | {
            "since": self.since,
            "rising_since": self.rising_since,
            "above": self.above,
            "before": self.before,
        }

    def load(self, record: dict[str, Any]) -> None:
        """Become what `record` returned; an older checkpoint has none, and the median begins anew."""
        self.recent = [float(loss) for loss in record.get("recent", ())]
        self.since, self.rising_since = record.get("since"), record.get("rising_since")
        self.loss, self.before, self.above = record.get("loss"), record.get("before"), int(record.get("above", 0))

    def __str__(self) -> str:
        if self.loss is None:
            return "no loss yet"
        times = f", {self.loss / self.median:.3g} times its running median {self.median:.3g}" if self.median else ""
        return f"the loss is {self.loss:.3g}{times}"
