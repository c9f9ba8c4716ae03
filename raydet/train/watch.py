"""Watching a run's health: what is said, and done, where its loss leaves the running median."""

from __future__ import annotations

from collections.abc import Mapping

from raydet.config.run import RunConfig
from raydet.errors import DivergedError
from raydet.group import Group
from raydet.train.going_back import DIVERGED, advice
from raydet.train.health import Health
from raydet.train.journal import Journal
from raydet.train.rundir import RunFolder


class Watch:
    """One rank's; all ranks see the same losses and call the same methods, as the lead looks up how to go on."""

    def __init__(self, config: RunConfig, health: Health, group: Group, journal: Journal) -> None:
        self._config, self._health, self._group, self._journal = config, health, group, journal
        self._folder = RunFolder(config.run.dir)

    def observe(self, s: int, loss: float, rates: Mapping[str, float | None]) -> None:
        """Take in the loss of the step after `s` ones. Raises DivergedError where it has long been too high."""
        if self._health.observe(s, loss):
            lr = ", ".join(f"{rate:.3g}" for rate in rates.values() if rate is not None)
            told = f"{self._health}, at a learning rate of {lr}"
            self.alarm(s, f"{told}: the run diverges, what it saves now is unhealthy")
        if self._health.is_hopeless:
            self.give_up_if_diverged(s)

    def give_up_if_diverged(self, s: int) -> None:
        """Raise DivergedError where the loss is above its bound."""
        if not self._health.is_healthy:
            since = self._health.since
            raise DivergedError(f"step {s}: {self._health}, and has been too high since step {since}: {self._how(s)}")

    def alarm(self, s: int, problem: str) -> str:
        """Write that the weights of step `s` are bad, and return how to go on; the same on every rank."""
        said = self._how(s)
        self._journal.alarm(s, DIVERGED, f"{problem}; {said}", since=self._first_bad(s))
        return said

    def _first_bad(self, s: int) -> int:
        rising = self._health.rising_since
        return s if rising is None else rising

    def _how(self, s: int) -> str:
        bad = range(self._first_bad(s), s + 1)
        return str(self._group.all_gather(advice(self._config, self._folder, bad) if self._group.is_lead else "")[0])
