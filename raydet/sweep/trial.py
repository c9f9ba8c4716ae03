"""One trial, as Ray Tune runs it: get the shared burn-in, train as `raydet train` would, report each evaluation.

The training runs in a thread and writes its run folder as ever; this side reads RUN/metrics.jsonl along and tells
Tune. What an earlier process of the same trial had measured is told again first, so that a scheduler forgets nothing. A
trial that a scheduler has seen enough of is asked to stop, not killed: workers and teachers end in order and free their
places.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune

from raydet.config.run import RunConfig
from raydet.errors import ConfigError, FolderInUseError, RunStopped
from raydet.metrics import FILE_NAME
from raydet.sweep.burn_in import burn_in_key, has_burn_in, shared_burn_in
from raydet.sweep.definition import SweepDefinition, read_definition
from raydet.sweep.folder import SweepFolder, Trial
from raydet.sweep.points import plain
from raydet.sweep.trial_metrics import TrialMetrics
from raydet.train.launch import launch
from raydet.train.progress import Tail
from raydet.train.rundir import RunFolder
from raydet.train.stop import ask_to_stop

POLL_S = 0.5
LINGER_S = 60.0
STOPPED = "by the scheduler"


def run_trial(choice: dict[str, Any], *, home: str) -> None:
    """Train one trial to its end, or until it is asked to stop; `choice` names it, or is a searcher's suggestion."""
    folder = SweepFolder(home)
    definition = read_definition(folder.path)
    tune_id = tune.get_context().get_trial_id()
    trial = folder.trial(choice["trial"]) if "trial" in choice else claim(folder, definition, choice, tune_id)
    trial = folder.save(trial, tune_id=tune_id)
    reporter = _Reporter(folder, trial, definition.metric)
    reporter.report()  # what earlier attempts have measured
    if trial.is_over:
        return
    if folder.is_asked_to_stop(trial.id):
        folder.save(trial, state="stopped", message=STOPPED, ended=time.time())
        return
    training = _Training(folder, definition.base, trial)
    training.start()
    while training.is_alive():
        training.join(POLL_S)
        reporter.report()
        if folder.is_asked_to_stop(trial.id):
            training.stop()
    reporter.report()


class _Reporter:
    """Tells Tune each evaluation that counts, once."""

    def __init__(self, folder: SweepFolder, trial: Trial, metric: str) -> None:
        self._tail = Tail(folder.run_dir(trial.id) / FILE_NAME)
        self._trial_metrics = TrialMetrics()
        self._id, self._metric = trial.id, metric

    def report(self) -> None:
        """Report what is new; each report waits until the scheduler has seen it."""
        for record in self._tail.poll():
            self._trial_metrics.fed([record])
            if self._trial_metrics.is_judged(record) and record.get(self._metric) is not None:
                tune.report({"step": record["step"], self._metric: record[self._metric], "trial": self._id})


class _Training(threading.Thread):
    """Trains; the trial's record says how it ended."""

    def __init__(self, folder: SweepFolder, base: RunConfig, trial: Trial) -> None:
        super().__init__(name="training", daemon=True)  # a trial that Tune ends must not wait for it
        self._folder, self._base, self._trial = folder, base, trial

    def run(self) -> None:
        save = self._folder.save
        attempts = self._trial.attempts + 1
        self._trial = save(self._trial, state="burn-in", attempts=attempts, began=self._trial.began or time.time())
        try:
            self._train(self._folder.config_of(self._trial, self._base))
        except RunStopped:
            save(self._trial, state="stopped", message=STOPPED, ended=time.time())
        except Exception as error:  # whatever it is, the other trials go on
            save(self._trial, state="failed", message=f"{type(error).__name__}: {error}", ended=time.time())
        else:
            save(self._trial, state="done", message="", ended=time.time())

    def stop(self) -> None:
        """Let the training stop after its step; asked too early, it does not notice: ask again."""
        file = RunFolder(self._folder.run_dir(self._trial.id)).stop
        if file.exists():
            ask_to_stop(file, STOPPED)

    def _train(self, config: RunConfig) -> None:
        if self._trial.burn_in is not None:
            fork = shared_burn_in(config, self._base, self._folder.burn_ins / self._trial.burn_in)
            config = config.model_copy(update={"run": config.run.model_copy(update={"fork_from": str(fork)})})
        self._trial = self._folder.save(self._trial, state="running")
        deadline = time.monotonic() + LINGER_S
        while True:
            try:
                launch(config, resume=(Path(config.run.dir) / "config.json").exists())
                return
            except FolderInUseError:  # by the process of a killed search, which lives on for a moment
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)


def claim(folder: SweepFolder, definition: SweepDefinition, values: dict[str, Any], tune_id: str) -> Trial:
    """Return the trial of a searcher's suggestion: the one it is already, one with the same values that is over or was
    cut off with an earlier search, or a new one.

    After a process has died Tune starts the same suggestion again, under the same id.
    """
    values = {key: plain(value) for key, value in values.items()}
    with folder.counting():
        known = folder.all_trials()
        for trial in known:
            if trial.tune_id == tune_id:
                return trial
        for trial in known:
            if trial.values == values and (trial.is_over or trial.state == "waiting"):
                return trial if trial.is_over else folder.save(trial, state="burn-in", tune_id=tune_id)
        number = max((trial.point for trial in known), default=-1) + 1
        overrides = {**definition.settings, **values}
        new = Trial(f"{number:04d}", number, definition.base.seed, values, overrides)
        with suppress(ConfigError):  # a suggestion that cannot be meant fails when it is trained, with its message
            config = folder.config_of(new, definition.base)
            new = replace(new, burn_in=burn_in_key(config) if has_burn_in(config) else None)
        return folder.save(new, state="burn-in", tune_id=tune_id)  # not free for others to claim
