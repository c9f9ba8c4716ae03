"""Which teacher version labels which step: pure arithmetic, so that timing can delay a run but never change it.

A version is the number of optimiser steps completed when the teacher's weights were taken. `moving` is for teachers
that follow the student, `stages` for teachers that are replaced a few times, `none` for methods without pseudo-labels.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from dataclasses import dataclass

ANY_AGE = sys.maxsize


@dataclass(frozen=True, slots=True)
class LabelSchedule:
    """Publish points, and for every step the one whose teacher labels it. Build it with one of the constructors."""

    boundaries: tuple[int, ...]  # publish points, ascending; steps before the first use no labels
    publish_every: int | None = None  # where set: a publish point also every so many steps after each boundary
    lookahead: int = 0  # labels are asked for so many steps before they are consumed

    @staticmethod
    def none() -> LabelSchedule:
        """No step ever needs labels."""
        return LabelSchedule(())

    @staticmethod
    def moving(start: int, *restarts: int, publish_every: int = 1, lookahead: int = 0) -> LabelSchedule:
        """From `start` on: step s is labelled by the latest publish point <= max(latest restart <= s, s - lookahead).

        `start` is the first restart; at the others everything begins anew, so that no label from before is used after.
        """
        if start < 0 or publish_every < 1 or lookahead < 0:
            raise ValueError(
                f"need start >= 0, publish_every >= 1, lookahead >= 0; got {start}, {publish_every}, {lookahead}"
            )
        return LabelSchedule(_ascending((start, *restarts)), publish_every, lookahead)

    @staticmethod
    def stages(*boundaries: int) -> LabelSchedule:
        """Step s is labelled by the latest boundary <= s, whose teacher stays frozen until the next one."""
        return LabelSchedule(_ascending(boundaries))

    def version_for(self, step: int) -> int | None:
        """Return the version that labels `step`, or None where the step needs no labels."""
        if not self.boundaries or step < self.boundaries[0]:
            return None
        latest = self._latest(step)
        if self.publish_every is None:
            return latest
        return latest + max(0, step - self.lookahead - latest) // self.publish_every * self.publish_every

    def is_publish_step(self, step: int) -> bool:
        """Whether the teacher is to be published when `step` optimiser steps are done."""
        if not self.boundaries or step < self.boundaries[0]:
            return False
        since = step - self._latest(step)
        return since == 0 if self.publish_every is None else since % self.publish_every == 0

    def publish_points(self, end: int) -> list[int]:
        """Return every step before `end` at which a teacher is published, ascending."""
        every = self.publish_every or max(1, end)  # at the boundaries alone
        starts = [first for first in self.boundaries if first < end]
        ends = [*starts[1:], end][: len(starts)]
        return [p for a, b in zip(starts, ends, strict=True) for p in range(a, b, every)]

    @property
    def max_age(self) -> int:
        """The oldest a label can be when it is consumed, in steps; follows from the schedule, and is reached.

        Moving: the publish point p of step s satisfies s - A - P < p, or p is the latest restart and s - p < A; in both
        cases age <= A + P - 1. Stages: a frozen teacher's labels do not go stale.
        """
        if not self.boundaries:
            return 0
        return ANY_AGE if self.publish_every is None else self.lookahead + self.publish_every - 1

    def _latest(self, step: int) -> int:
        """Return the latest boundary not after a step; there is one."""
        return self.boundaries[bisect_right(self.boundaries, step) - 1]


def _ascending(boundaries: tuple[int, ...]) -> tuple[int, ...]:
    """Return them. Raises ValueError unless they are ascending steps."""
    if not boundaries or boundaries[0] < 0 or any(a >= b for a, b in zip(boundaries, boundaries[1:], strict=False)):
        raise ValueError(f"boundaries must be ascending steps >= 0, got {boundaries}")
    return boundaries
