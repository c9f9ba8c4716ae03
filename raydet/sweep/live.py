"""A running search as its folder shows it: looks again and again, reads only what is new. No display, no clock."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from raydet.metrics import FILE_NAME, Record
from raydet.sweep.definition import SweepDefinition
from raydet.sweep.folder import SweepFolder, Trial
from raydet.sweep.trial_metrics import TrialMetrics
from raydet.train.progress import Tail
from raydet.train.status import Status

AT_WORK = ("burn-in", "running")


class Run:
    """One run folder, read along; one that is over is read at once and not again."""

    def __init__(self, folder: Path, *, is_over: bool = False) -> None:
        self._tail = Tail(folder / FILE_NAME)
        self.metrics = TrialMetrics.read(folder / FILE_NAME) if is_over else TrialMetrics()
        self._status = Status(steps=0, burn_in_steps=0)

    def poll(self) -> list[Record]:
        """Take in and return what was written since the last call."""
        records = self._tail.poll()
        for record in records:
            self._status.take(record)
        self.metrics.fed(records)
        return records

    @property
    def eta_s(self) -> float | None:
        """Return the seconds to go at the recent pace, None where it is not known yet."""
        return self._status.eta_s


@dataclass(slots=True)
class LiveTrial:
    """A trial and its run."""

    trial: Trial
    run: Run
    stamp: tuple[int, int]  # of trial.json as it was read
    is_new: bool  # had not begun when it was first seen

    def figure(self, metric: str) -> float | None:
        """Return the newest figure."""
        return self.run.metrics.newest().get(metric)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that deserves a line: a trial has a new state (`record` is None), or a record was written."""

    watched: LiveTrial
    record: Record | None = None


@dataclass(slots=True)
class LiveSweep:
    """All trials of a search. `poll()` before looking at anything."""

    definition: SweepDefinition
    trials: dict[str, LiveTrial] = field(default_factory=dict)
    burn_ins: dict[str, Run] = field(default_factory=dict)

    def poll(self) -> Iterator[Event]:
        """Look at the folder once and yield what is new. Waiting and finished trials cost one `stat` each."""
        home = SweepFolder(self.definition.folder)
        for file in sorted(home.trials.glob("*/trial.json")):
            name, stamp = file.parent.name, _stamp(file)
            known = self.trials.get(name)
            before = None if known is None else known.trial.state
            if known is None:
                trial = home.trial(name)
                run = Run(home.run_dir(name), is_over=trial.is_over)
                known = self.trials[name] = LiveTrial(trial, run, stamp, trial.began is None)
            elif known.stamp != stamp:
                known.trial, known.stamp = home.trial(name), stamp
            yield from self._news(known, before)
        self._poll_burn_ins(home)

    def run_at_work(self, watched: LiveTrial) -> Run:
        """Return the run whose steps count now: the trial's own, or the burn-in that it waits for."""
        trial = watched.trial
        return self.burn_ins.get(trial.burn_in or "", watched.run) if trial.state == "burn-in" else watched.run

    def states(self) -> Counter[str]:
        """Return how many trials are in which state."""
        return Counter(watched.trial.state for watched in self.trials.values())

    def best(self) -> LiveTrial | None:
        """Return the best of the trials that are done, the first of equals."""
        metric, sign = self.definition.metric, self.definition.sign
        done = [each for each in self.trials.values() if each.trial.state == "done" and each.figure(metric) is not None]
        return max(done, key=lambda each: sign * (each.figure(metric) or 0.0), default=None)

    def eta_s(self) -> float | None:
        """Return about how many seconds the whole search still takes, with as many trials at once as now.

        A waiting trial is taken to last as long as others so far; a scheduler that stops trials early makes it less.
        None while nothing is known.
        """
        at_work = [each for each in self.trials.values() if each.trial.state in AT_WORK]
        at_once = max(len(at_work), 1)
        left = [self.run_at_work(each).eta_s for each in at_work]
        typical = self._typical_s(at_once, left=[eta for eta in left if eta is not None])
        if typical is None:
            return None
        known = [typical if eta is None else eta for eta in left]
        return max([(sum(known) + typical * self.states()["waiting"]) / at_once, *known])

    def _typical_s(self, at_once: int, left: list[float]) -> float | None:
        """Return how long a trial lasts with all that it needs before and after, as far as that is known by now."""
        begun = sorted(
            each.trial.began for each in self.trials.values() if each.is_new and each.trial.began is not None
        )
        # With n trials at once, every trial makes room for the n-th after it.
        cycles = [later - earlier for earlier, later in zip(begun, begun[at_once:], strict=False)]
        trained = [each.run.metrics.seconds for each in self.trials.values() if each.trial.state == "done"]
        at_work = [each.run.metrics.seconds for each in self.trials.values() if each.trial.state in AT_WORK]
        guess = [(sum(at_work) + sum(left)) / len(left)] if left else []
        known = cycles or trained or guess
        return sum(known) / len(known) if known else None

    def _news(self, watched: LiveTrial, before: str | None) -> Iterator[Event]:
        """Yield what is new of a trial that was in the state `before`: it began, was measured, ended, in this order."""
        state, is_over = watched.trial.state, watched.trial.is_over
        is_known_end = is_over and before in (None, state)
        is_waiting_still = state == before == "waiting"
        records = [] if is_known_end or is_waiting_still else watched.run.poll()
        if state != before and state in AT_WORK:
            yield Event(watched)
        yield from (Event(watched, record) for record in records)
        if state != before and is_over:
            yield Event(watched)

    def _poll_burn_ins(self, home: SweepFolder) -> None:
        needed = {each.trial.burn_in for each in self.trials.values() if each.trial.state == "burn-in"}
        for key in sorted(key for key in needed if key is not None):
            self.burn_ins.setdefault(key, Run(home.burn_ins / key)).poll()


def _stamp(file: Path) -> tuple[int, int]:
    stat = os.stat(file)
    return stat.st_mtime_ns, stat.st_ino
