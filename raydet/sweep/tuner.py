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

from raydet.sweep.folder import SweepFolder, Trial
from raydet.sweep.plan import claims_of_trial
from raydet.sweep.question import Question
from raydet.sweep.results import best_trial, collect
from raydet.sweep.space import Asha, SpaceError, Sweep
from raydet.sweep.trial import run_trial


def run_trials(
    folder: SweepFolder, question: Question, sweep: Sweep, trials: Sequence[Trial], *, count: int, at_once: int
) -> None:
    """Run what is left of a search, `at_once` trials at a time, and wait; `count`: suggestions of a searcher in all."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # a trial's figures are in its run folder
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one prints whatever `verbose` says
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C ends the search here and now; every trial can go on
    # A scheduler must hear again what finished trials had measured; without one they need no second visit.
    left = [trial for trial in trials if sweep.scheduler is not None or not trial.is_over]
    is_adaptive = question.search == "optuna"
    if not is_adaptive and all(trial.is_over for trial in left):
        return
    claims = claims_of_trial(folder.config_of(trials[0], question.base) if trials else question.base)
    resources = {name.lower() if name in ("CPU", "GPU") else name: a for name, a in claims[0].each.items()}
    tuner = tune.Tuner(
        tune.with_resources(partial(run_trial, home=str(folder.path)), resources),
        param_space=dict(sweep.space) if is_adaptive else {"trial": tune.grid_search([t.id for t in left])},
        tune_config=tune.TuneConfig(
            metric=question.metric,
            mode=question.mode,
            num_samples=max(0, count - sum(t.is_over for t in trials)) if is_adaptive else 1,
            max_concurrent_trials=at_once,
            scheduler=sweep.scheduler and _AskingAsha(folder, sweep.scheduler, question.base.last_step),
            search_alg=optuna_searcher(sweep, folder, question.base.seed, trials) if is_adaptive else None,
        ),
        run_config=tune.RunConfig(
            name="search", storage_path=str(folder.tune), callbacks=[_Keeper(folder), _Silence()], verbose=0
        ),
    )
    tuner.fit()


class _Keeper(tune.Callback):  # type: ignore[misc]
    """In the search's process: notes how trials ended that could not say so, and deletes what is of no more use."""

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._prune()

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        error = trial.get_pickled_error() or trial.get_error()
        reason = str(error).strip().splitlines()[-1] if error else "Ray gave no reason"
        trial_id = trial.config.get("trial") or (trial.last_result or {}).get("trial")
        record = self._folder.trial(trial_id) if trial_id else None  # a suggestion may end before its first figure
        if record is not None and not record.is_over:
            self._folder.save(record, state="failed", message=f"its process ended: {reason}", ended=time.time())
        self._prune()

    def _prune(self) -> None:
        best = best_trial(self._folder.path)
        for trial in self._folder.all_trials():
            if trial.state in ("done", "stopped") and trial.id != best:
                self._folder.prune(trial)


class _Silence(TrialProgressCallback):  # type: ignore[misc]
    """Instead of Tune's own lines about trials; `SweepView` has better ones."""

    def _print(self, msg: str) -> None:
        pass


class _AskingAsha(ASHAScheduler):  # type: ignore[misc]
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

    searcher = OptunaSearch(
        space=OptunaSearch.convert_search_space(dict(sweep.space)),
        metric=sweep.metric,
        mode=sweep.mode,
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
