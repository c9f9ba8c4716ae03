"""One trial, as Ray Tune runs it: get the shared burn-in, train as `raydet train` would, report each evaluation.

The training runs in a thread and writes its run folder as ever; this side reads RUN/metrics.jsonl along and tells Tune.
What an earlier process of the same trial had measured is told again first, so that a scheduler forgets nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune

from raydet.config.run import RunConfig
from raydet.errors import RunStopped
from raydet.metrics import FILE_NAME
from raydet.sweep.burn_in import shared_burn_in
from raydet.sweep.course import Course
from raydet.sweep.folder import SweepFolder, Trial
from raydet.sweep.question import Question, read_question
from raydet.train.launch import launch
from raydet.train.progress import Tail
from raydet.train.rundir import RunFolder
from raydet.train.stop import ask_to_stop

POLL_S = 0.5


def run_trial(choice: dict[str, Any], *, home: str) -> None:
    """Train one trial to its end, or until Tune stops it. `choice` names a trial, or holds a searcher's values."""
    folder = SweepFolder(home)
    question = read_question(folder.path)
    trial = folder.trial(choice["trial"]) if "trial" in choice else _claim(folder, question, choice)
    tail = Tail(folder.run_dir(trial.id) / FILE_NAME)
    training = _Training(folder, question.base, trial)
    if not trial.is_over:
        training.start()
    try:
        for figures in _evaluations(tail, question.metric, training):
            tune.report(figures | {"trial": trial.id})  # SystemExit where the scheduler has seen enough
    finally:
        training.stop()


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
        except RunStopped as stopped:
            save(self._trial, state="stopped", message=str(stopped), ended=time.time())
        except Exception as error:  # whatever it is, the other trials go on
            save(self._trial, state="failed", message=f"{type(error).__name__}: {error}", ended=time.time())
        else:
            save(self._trial, state="done", message="", ended=time.time())

    def stop(self) -> None:
        """Let the training stop after its step, where it is still at work."""
        file = RunFolder(self._folder.run_dir(self._trial.id)).stop
        if self.is_alive() and file.exists():
            ask_to_stop(file, "the scheduler has stopped this trial")

    def _train(self, config: RunConfig) -> None:
        if self._trial.burn_in is not None:
            fork = shared_burn_in(config, self._base, self._folder.burn_ins / self._trial.burn_in)
            config = config.model_copy(update={"run": config.run.model_copy(update={"fork_from": str(fork)})})
        self._trial = self._folder.save(self._trial, state="running")
        launch(config, resume=(Path(config.run.dir) / "config.json").exists())


def _evaluations(tail: Tail, metric: str, training: threading.Thread) -> Iterator[dict[str, Any]]:
    """Yield every evaluation that counts, those of earlier attempts first, until the training has ended."""
    course = Course()
    while True:
        is_last = not training.is_alive()
        for record in tail.poll():
            course.fed([record])
            if course.is_judged(record) and record.get(metric) is not None:
                yield {"step": record["step"], metric: record[metric]}
        if is_last:
            return
        training.join(POLL_S)


def _claim(folder: SweepFolder, question: Question, values: dict[str, Any]) -> Trial:
    """Return the trial of a searcher's suggestion: one cut off earlier with the same values, or a new one."""
    values = {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}
    with folder.counting():
        known = folder.all_trials()
        for trial in known:
            if trial.values == values and (trial.is_over or trial.state == "waiting"):
                return folder.save(trial, state="burn-in") if not trial.is_over else trial
        number = max((trial.point for trial in known), default=-1) + 1
        overrides = {**question.settings, **values}
        return folder.save(Trial(f"{number:04d}", number, question.base.seed, values, overrides))
