"""Running a search: plan it, show the plan, run the trials, collect what came out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import ray

from raydet.cluster.connect import connected
from raydet.cluster.needs import total
from raydet.config.run import RunConfig
from raydet.data.prepare import prepare
from raydet.errors import ConfigError
from raydet.sweep.folder import SweepFolder, Trial
from raydet.sweep.plan import check_metric, claims_of_trial, concurrency, disk_of, trials_of, with_shared_burn_ins
from raydet.sweep.points import check_points, draw_points, points_of
from raydet.sweep.question import Question, read_question
from raydet.sweep.results import write_results
from raydet.sweep.space import SpaceError, Sweep
from raydet.sweep.table import SweepView
from raydet.sweep.tuner import require_optuna, run_trials
from raydet.train.rundir import differences

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

    `seeds`: several seeds per point; `limit`: at most so many trials at once. With `resume` the trials are those of the
    folder, whatever `seeds` says.
    """
    folder = SweepFolder(home)
    with folder.lock():
        if resume and not folder.header_file.exists():
            raise ConfigError(f"--resume: there is no search at {folder.path}; start it without --resume")
        if not resume:
            _begin(folder, sweep, name, base, samples, list(seeds) or [base.seed])
        question = read_question(folder.path)
        if resume:
            _check_same(question, sweep, base)
        trials = _revived(folder, retry_failed=retry_failed)
        count = samples or sweep.samples
        configs = [folder.config_of(trial, question.base) for trial in trials] or [question.base]
        is_nested = question.base.cluster.backend == "ray"
        wanted = [total(claims_of_trial(config)) for config in configs]
        cpus = max(each.get("CPU", 0.0) for each in wanted)
        own = {k: v for each in wanted for k, v in each.items() if k not in ("CPU", "GPU")}
        # Ray Train's clean-up behind a trial that Tune ends asks the dashboard what is still alive.
        with connected(question.base.cluster, cpus=cpus, resources=own, dashboard=is_nested):
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            at_once = concurrency(configs if trials else configs * count, nodes, limit=limit)
            print(describe(folder, question, trials, count, at_once), flush=True)
            with SweepView(folder.path):
                run_trials(folder, question, sweep, trials, count=count, at_once=at_once)
        print(write_results(folder.path), flush=True)
        if find_spec("matplotlib") is not None:
            from raydet.sweep.report import write_sweep_report  # draws

            print(f"report: {write_sweep_report(folder.path)}", flush=True)
    return folder


def describe(folder: SweepFolder, question: Question, trials: Sequence[Trial], count: int, at_once: int) -> str:
    """Return the lines a user reads before a search starts."""
    config = folder.config_of(trials[0], question.base) if trials else question.base
    groups = {trial.burn_in for trial in trials if trial.burn_in is not None}
    num_classes = len(prepare(question.base.data, folder.path / "data").class_names)
    number = len(trials) or count
    disk = disk_of(config, num_classes=num_classes, at_once=at_once, num_burn_ins=len(groups))
    over = sum(trial.is_over for trial in trials)
    claims = ", ".join(f"{amount:g} {name}" for name, amount in total(claims_of_trial(config)).items())
    own = sum(trial.burn_in is None for trial in trials)
    burn_in = f"shared burn-ins: {len(groups)}" + (f"; {own} trials train their own" if own else "")
    return "\n".join(
        [
            f"raydet tune: {question.name} in {folder.path}",
            f"  {number} trials"
            + (f", {over} of them over" if over else "")
            + f"; {question.mode} of val {question.metric}",
            f"  each claims {claims}: {at_once} at once",
            f"  {burn_in if trials else 'points are suggested by ' + question.search}; scheduler: {question.scheduler}",
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
        require_optuna()
        if len(seeds) > 1:
            raise SpaceError("search='optuna' suggests single runs; several seeds per point need search='random'")
        check_points(base.model_dump(mode="json"), draw_points(sweep, 32), where="config")
        folder.begin(name, sweep, base, tuple(seeds), [])
        return
    points = points_of(sweep, samples=samples, seed=base.seed)
    check_points(base.model_dump(mode="json"), points, where="config")
    trials = with_shared_burn_ins(trials_of(points, sweep, base, seeds), folder, base)
    folder.begin(name, sweep, base, tuple(seeds), trials)


def _check_same(question: Question, sweep: Sweep, base: RunConfig) -> None:
    """Raise ConfigError where a search would be resumed with another question or another base configuration."""
    changed = [line for line in differences(question.base, base) if not line.startswith("run.dir:")]
    asked = (question.keys, question.metric, question.mode, question.search, dict(question.settings))
    if asked != (sweep.keys, sweep.metric, sweep.mode, sweep.search, json.loads(json.dumps(dict(sweep.settings)))):
        changed.append("the space file: its keys, metric, mode, search or settings")
    if changed:
        raise ConfigError(
            f"--resume: this differs from what {question.folder} was started with:\n  "
            + "\n  ".join(changed)
            + "\nset it back, or start a new search in another run.dir"
        )


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
