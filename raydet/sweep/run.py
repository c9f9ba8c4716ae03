"""Running a search with Ray Tune: plan it, show the plan, run the trials, collect what came out. Thin."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from raydet.cluster.connect import connected
from raydet.cluster.needs import total
from raydet.config.run import RunConfig
from raydet.data.prepare import prepare
from raydet.errors import Terminated
from raydet.sweep.folder import Header, SweepFolder, Trial
from raydet.sweep.plan import check_metric, claims_of_trial, concurrency, disk_of, trials_of, with_shared_burn_ins
from raydet.sweep.points import check_points, draw_points, points_of
from raydet.sweep.results import best_trial, collect, write_results
from raydet.sweep.space import SpaceError, Sweep
from raydet.sweep.table import SweepView
from raydet.sweep.trial import run_trial

MB = 2**20


def search(
    sweep: Sweep,
    name: str,
    base: RunConfig,
    home: Path,
    *,
    samples: int | None = None,
    seeds: Sequence[int] = (),
    resume: bool = False,
    retry_failed: bool = False,
    limit: int | None = None,
) -> SweepFolder:
    """Run a search to its end and return its folder. Raises UserError for what the user can mend.

    `seeds`: several seeds per point; `limit`: at most so many trials at once. With `resume` the trials, and what they
    start from, are those of the folder; `base` and `seeds` are not looked at.
    """
    folder = SweepFolder(home)
    with folder.lock():
        if not resume:
            _begin(folder, sweep, name, base, samples, list(seeds) or [base.seed])
        header = folder.header()
        trials = _revived(folder, retry_failed=retry_failed)
        count = samples or sweep.samples
        configs = [folder.config_of(trial, header.base) for trial in trials] or [header.base]
        is_nested = header.base.cluster.backend == "ray"
        wanted = [total(claims_of_trial(config)) for config in configs]
        cpus = max(each.get("CPU", 0.0) for each in wanted)
        own = {k: v for each in wanted for k, v in each.items() if k not in ("CPU", "GPU")}
        # Ray Train's clean-up behind a trial that Tune ends asks the dashboard what is still alive.
        with _sigterm_interrupts(), connected(header.base.cluster, cpus=cpus, resources=own, dashboard=is_nested):
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            at_once = concurrency(configs if trials else configs * count, nodes, limit=limit)
            print(describe(folder, header, trials, count, at_once), flush=True)
            with SweepView(folder.path):
                _tune(folder, header, sweep, trials, count, at_once)
        print(write_results(folder.path), flush=True)
    return folder


def describe(folder: SweepFolder, header: Header, trials: Sequence[Trial], count: int, at_once: int) -> str:
    """Return the lines a user reads before a search starts."""
    config = folder.config_of(trials[0], header.base) if trials else header.base
    groups = {trial.burn_in for trial in trials if trial.burn_in is not None}
    num_classes = len(prepare(header.base.data, folder.path / "data").class_names)
    number = len(trials) or count
    disk = disk_of(config, num_classes=num_classes, at_once=at_once, num_burn_ins=len(groups))
    over = sum(trial.is_over for trial in trials)
    claims = ", ".join(f"{amount:g} {name}" for name, amount in total(claims_of_trial(config)).items())
    own = sum(trial.burn_in is None for trial in trials)
    burn_in = f"shared burn-ins: {len(groups)}" + (f"; {own} trials train their own" if own else "")
    return "\n".join(
        [
            f"raydet tune: {header.name} in {folder.path}",
            f"  {number} trials"
            + (f", {over} of them over" if over else "")
            + f"; {header.mode} of val {header.metric}",
            f"  each claims {claims}: {at_once} at once",
            f"  {burn_in if trials else 'points are suggested by ' + header.search}; scheduler: {header.scheduler}",
            f"  disk: up to about {disk.at_once / MB:.0f} MB while it runs, {disk.at_the_end / MB:.0f} MB at the end",
        ]
    )


def _begin(
    folder: SweepFolder, sweep: Sweep, name: str, base: RunConfig, samples: int | None, seeds: Sequence[int]
) -> None:
    """Check everything, then write the search down."""
    check_metric(base)
    if len(set(seeds)) < len(seeds):
        raise SpaceError(f"--seeds {' '.join(map(str, seeds))}: a seed stands there twice")
    if sweep.search == "optuna":
        _require_optuna()
        if len(seeds) > 1:
            raise SpaceError("search='optuna' suggests single runs; several seeds per point need search='random'")
        check_points(base.model_dump(mode="json"), draw_points(sweep, 32), where="config")
        folder.begin(name, sweep, base, tuple(seeds), [])
        return
    points = points_of(sweep, samples=samples, seed=base.seed)
    check_points(base.model_dump(mode="json"), points, where="config")
    trials = with_shared_burn_ins(trials_of(points, sweep, base, seeds), folder, base)
    folder.begin(name, sweep, base, tuple(seeds), trials)


def _revived(folder: SweepFolder, *, retry_failed: bool) -> list[Trial]:
    """Return the search's trials; those that an earlier process left unfinished wait again."""
    found = []
    for trial in folder.all_trials():
        again = trial.state in ("burn-in", "running") or (retry_failed and trial.state == "failed")
        found.append(folder.save(trial, state="waiting", message="", ended=None) if again else trial)
    first_of: dict[str, str] = {}
    for trial in found:
        if trial.burn_in is not None:
            first_of.setdefault(trial.burn_in, trial.id)
    return sorted(found, key=lambda t: (t.burn_in is not None and first_of[t.burn_in] != t.id, t.id))


def _tune(folder: SweepFolder, header: Header, sweep: Sweep, trials: Sequence[Trial], count: int, at_once: int) -> None:
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # a trial's figures are in its run folder
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one prints whatever `verbose` says
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C ends the search here and now; every trial can go on
    # A scheduler must hear again what finished trials had measured; without one they need no second visit.
    left = [trial for trial in trials if sweep.scheduler is not None or not trial.is_over]
    is_adaptive = header.search == "optuna"
    if not is_adaptive and all(trial.is_over for trial in left):
        return
    claims = claims_of_trial(folder.config_of(trials[0], header.base) if trials else header.base)
    resources = {name.lower() if name in ("CPU", "GPU") else name: a for name, a in claims[0].each.items()}
    tuner = tune.Tuner(
        tune.with_resources(partial(run_trial, home=str(folder.path)), resources),
        param_space=dict(sweep.space) if is_adaptive else {"trial": tune.grid_search([t.id for t in left])},
        tune_config=tune.TuneConfig(
            metric=header.metric,
            mode=header.mode,
            num_samples=max(0, count - sum(t.is_over for t in trials)) if is_adaptive else 1,
            max_concurrent_trials=at_once,
            scheduler=_scheduler(sweep, header.base),
            search_alg=_optuna(sweep, folder, trials) if is_adaptive else None,
        ),
        run_config=tune.RunConfig(
            name="search", storage_path=str(folder.tune), callbacks=[_Keeper(folder, header), _Silence()], verbose=0
        ),
    )
    tuner.fit()


class _Keeper(tune.Callback):  # type: ignore[misc]
    """In the search's process: notes how trials ended that could not say so, and deletes what is of no more use."""

    def __init__(self, folder: SweepFolder, header: Header) -> None:
        self._folder, self._header = folder, header

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._settle(trial, "stopped", "by the scheduler")

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        error = trial.get_pickled_error() or trial.get_error()
        self._settle(
            trial, "failed", f"its process ended: {str(error).strip().splitlines()[-1] if error else 'unknown'}"
        )

    def _settle(self, trial: TuneTrial, state: str, message: str) -> None:
        trial_id = trial.config.get("trial") or (trial.last_result or {}).get("trial")
        if trial_id is None:
            return  # a suggestion that never got as far as its first figure
        record = self._folder.trial(trial_id)
        if not record.is_over:
            record = self._folder.save(record, state=state, message=message)
        best = best_trial(self._folder.path)
        for other in self._folder.all_trials():
            if other.is_over and other.state != "failed" and best is not None and other.id != best:
                self._folder.prune(other)


class _Silence(TrialProgressCallback):  # type: ignore[misc]
    """Instead of Tune's own lines about trials; `SweepView` has better ones."""

    def _print(self, msg: str) -> None:
        pass


def _scheduler(sweep: Sweep, base: RunConfig) -> TrialScheduler | None:
    if sweep.scheduler is None:
        return None
    asha = sweep.scheduler
    # Tune's grace period and rungs count in the reported `step`.
    return ASHAScheduler(
        time_attr="step", max_t=base.last_step + 1, grace_period=asha.grace_steps, reduction_factor=asha.reduction
    )


def _optuna(sweep: Sweep, folder: SweepFolder, trials: Sequence[Trial]) -> Searcher:
    """Return Optuna's searcher, told what finished trials have found; unfinished ones are suggested first."""
    _require_optuna()
    from ray.tune.search.optuna import OptunaSearch

    searcher = OptunaSearch(
        space=OptunaSearch.convert_search_space(dict(sweep.space)),
        metric=sweep.metric,
        mode=sweep.mode,
        seed=folder.header().base.seed + len(trials),
        points_to_evaluate=[trial.values for trial in trials if not trial.is_over] or None,
    )
    for row in collect(folder.path):
        if row.state == "done" and row.figure is not None:
            searcher.add_evaluated_point(row.values, row.figure)
    return searcher


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise SpaceError("search='optuna' needs Optuna: pip install 'raydet[optuna]', or use search='random'") from None


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Within the block SIGTERM ends the search as Ctrl-C does."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
