"""The part of a search that Ray Tune does: which trial runs when, which stops early. What it writes is never read."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from raydet.sweep.definition import SweepDefinition, read_definition
from raydet.sweep.folder import SweepFolder, Trial
from raydet.sweep.plan import claims_of_trial
from raydet.sweep.results import collect, figure_of
from raydet.sweep.space import Asha, SpaceError, Sweep
from raydet.sweep.trial import run_trial


def run_trials(
    folder: SweepFolder,
    definition: SweepDefinition,
    sweep: Sweep,
    trials: Sequence[Trial],
    *,
    number: int,
    at_once: int,
) -> None:
    """Run what is left of a search, `number` trials, `at_once` at a time, and wait."""
    if not number:
        return
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # a trial's figures are in its run folder
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C ends the search here and now; every trial can go on
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one prints whatever `verbose` says
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # relative paths of data and weights mean what they mean here
    # A scheduler must hear again what finished trials had measured; without one they need no second visit.
    left = [trial for trial in trials if sweep.scheduler is not None or not trial.is_over]
    configs = [folder.config_of(trial, definition.base) for trial in trials] or [definition.base]
    claims = claims_of_trial(configs[0])
    resources = {name.lower() if name in ("CPU", "GPU") else name: a for name, a in claims[0].each.items()}
    longest = max(config.last_step for config in configs)
    tuner = tune.Tuner(
        tune.with_resources(partial(run_trial, home=str(folder.path)), resources),
        param_space={} if definition.is_adaptive else {"trial": tune.grid_search([t.id for t in left])},
        tune_config=tune.TuneConfig(
            metric=definition.metric,
            mode=definition.mode,
            num_samples=number if definition.is_adaptive else 1,
            max_concurrent_trials=at_once,
            scheduler=sweep.scheduler and AskingAsha(folder, sweep.scheduler, longest),
            search_alg=optuna_searcher(sweep, folder, definition.base.seed, trials) if definition.is_adaptive else None,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(folder.tune),
            # What a trial's own code raises it notes itself; these are processes and nodes that died.
            failure_config=tune.FailureConfig(max_failures=definition.base.cluster.max_failures),
            callbacks=[Keeper(folder, definition), _Silence()],
            verbose=0,
        ),
    )
    tuner.fit()


class Keeper(tune.Callback):  # type: ignore[misc]
    """In the search's process: notes trials that ended without a word, and keeps whole only the best one so far."""

    def __init__(self, folder: SweepFolder, definition: SweepDefinition) -> None:
        self._folder, self._definition = folder, definition
        self._best: tuple[float, Trial] | None = None
        for trial in folder.all_trials():
            self._tidy(trial)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Note how it ended, where it has not done so itself."""
        self._settle(trial, "its training ended without a word")

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Note that its process died."""
        error = trial.get_pickled_error() or trial.get_error()
        reason = str(error).strip().splitlines()[-1] if error else "Ray gave no reason"
        self._settle(trial, f"its process ended: {reason}")

    def _settle(self, tune_trial: TuneTrial, message: str) -> None:
        trial_id = tune_trial.config.get("trial")
        for record in self._folder.all_trials():
            if trial_id == record.id or tune_trial.trial_id == record.tune_id:
                if not record.is_over:
                    record = self._folder.save(record, state="failed", message=message, ended=time.time())
                self._tidy(record)

    def _tidy(self, trial: Trial) -> None:
        """Delete what is of no more use, now that this trial is over; failed ones may be tried again.

        A trial may come again: a resumed search hands it to the scheduler once more, or Optuna suggests its values.
        """
        if trial.state not in ("done", "stopped"):
            return
        if trial.state == "stopped" or not self._folder.has_checkpoints(trial):
            self._folder.prune(trial)  # one without its model is not the one to keep, be its figure the best
            return
        if self._best is not None and self._best[1].id == trial.id:
            return
        figure = figure_of(self._folder.run_dir(trial.id), self._definition.metric)
        if figure is not None and (self._best is None or self._definition.sign * (figure - self._best[0]) > 0):
            self._best, loser = (figure, trial), self._best and self._best[1]
        else:
            loser = trial
        if loser is not None:
            self._folder.prune(loser)


class _Silence(TrialProgressCallback):  # type: ignore[misc]
    """Instead of Tune's own lines about trials; `SweepView` has better ones."""

    def _print(self, msg: str) -> None:
        pass


class AskingAsha(ASHAScheduler):  # type: ignore[misc]
    """ASHA that asks a trial to stop where Ray's own would have its process killed, its workers' places still taken."""

    def __init__(self, folder: SweepFolder, asha: Asha, max_steps: int) -> None:
        super().__init__(
            time_attr="step",
            max_t=max_steps + 1,
            grace_period=asha.grace_steps,
            reduction_factor=asha.reduction,
        )
        self._folder = folder

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Return CONTINUE, having asked the trial where ASHA has decided against it."""
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            self._folder.ask_to_stop(result["trial"])
        return str(TrialScheduler.CONTINUE)


def optuna_searcher(sweep: Sweep, folder: SweepFolder, seed: int, trials: Sequence[Trial]) -> Searcher:
    """Return Optuna's searcher, told what finished trials have found; unfinished ones are suggested first."""
    from ray.tune.search.optuna import OptunaSearch

    definition = read_definition(folder.path)
    # Unfinished points are suggested first, those that are done are known; the seed differs in every attempt.
    searcher = OptunaSearch(
        space=OptunaSearch.convert_search_space(dict(sweep.space)),
        metric=definition.metric,
        mode=definition.mode,
        seed=seed + len(trials),
        points_to_evaluate=[trial.values for trial in trials if not trial.is_over] or None,
    )
    for row in collect(folder.path):
        if row.state == "done" and row.figure is not None:
            searcher.add_evaluated_point(row.values, row.figure)
    return searcher


def require_optuna() -> None:
    """Raise SpaceError where Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise SpaceError("search='optuna' needs Optuna: pip install 'raydet[optuna]', or use search='random'") from None
