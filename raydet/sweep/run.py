"""Running a search: plan it, show the plan, run the trials, collect what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ray

from raydet.cluster.address import address_of, check_answers
from raydet.cluster.capacity import check_holds, own_bytes, this_machine
from raydet.cluster.connect import connected
from raydet.cluster.needs import idle_gpus, total
from raydet.cluster.storage import check_shared
from raydet.config.paths import check_lasts
from raydet.config.run import RunConfig
from raydet.errors import ConfigError, RunError, StorageError
from raydet.registry import family_of
from raydet.settings import resolve
from raydet.sweep.definition import SweepDefinition, parse_definition, read_definition
from raydet.sweep.folder import SweepFolder, Trial, header_of
from raydet.sweep.plan import (
    check_metric,
    check_one_place,
    claims_of_trial,
    concurrency,
    disk_of,
    most_burn_ins,
    trials_of,
    with_shared_burn_ins,
)
from raydet.sweep.points import check_points, check_seeds, draw_points, points_of
from raydet.sweep.results import write_results
from raydet.sweep.space import SpaceError, Sweep
from raydet.sweep.table import SweepView
from raydet.sweep.tuner import require_optuna, run_trials
from raydet.text import plural
from raydet.train.rundir import differences

MB = 2**20
FREE_TO_CHANGE = ("run.dir:", "cluster.", "pool.", "log.")  # when a search is resumed


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

    `seeds`: several seeds per point; `limit`: at most so many trials at once. Nothing is written down before everything
    has been checked, so that what is refused can be mended and started again.
    """
    folder = SweepFolder(home)
    check_lasts(home, "run.dir")
    check_answers(base.cluster)
    with folder.lock():
        if resume:
            header, trials = _resumed(folder, sweep, name, base, samples, seeds, retry_failed=retry_failed)
        else:
            header, trials = _planned(folder, sweep, name, base, samples, list(seeds) or [base.seed])
        definition = parse_definition(header, folder.path)
        configs = _configs(folder, definition, trials)
        number = _number_left(definition, trials)
        wanted = [total(claims_of_trial(config)) for config in configs]
        cpus = max(each.get("CPU", 0.0) for each in wanted)
        own = {k: v for each in wanted for k, v in each.items() if k not in ("CPU", "GPU")}
        # Ray Train's clean-up behind a trial whose process dies asks the dashboard what is still alive.
        is_nested = base.cluster.backend == "ray"
        with connected(base.cluster, cpus=cpus, resources=own, dashboard=is_nested):
            check_shared(folder.path, "run.dir")
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            at_once = concurrency(configs, nodes, number=number, limit=limit)
            plan = describe(folder, definition, trials, configs, at_once)
            warnings = [*_crowded(base, configs[0], at_once), *idle_gpus(claims_of_trial(configs[0]), nodes)]
            plan = "\n".join([plan, *(f"  warning: {text}" for text in warnings)])
            if resume:
                folder.save_header(header)  # with what may have changed
            else:
                folder.begin(header, trials)
            print(plan, flush=True)
            with SweepView(folder.path):
                run_trials(folder, definition, sweep, trials, number=number, at_once=at_once)
        print(write_results(folder.path), flush=True)
        if find_spec("matplotlib") is not None:
            from raydet.sweep.report import write_sweep_report  # draws

            print(f"report: {write_sweep_report(folder.path)}", flush=True)
        _check_came_to_something(folder)
    return folder


def _crowded(base: RunConfig, config: RunConfig, at_once: int) -> list[str]:
    """Return warnings where the trials on a Ray of the search's own are more than this machine has."""
    if address_of(base.cluster) is not None:
        return []
    claims = [replace(claim, count=at_once * claim.count) for claim in claims_of_trial(config)]
    return check_holds(claims, this_machine(), {claim.what: own_bytes() for claim in claims})


def _check_came_to_something(folder: SweepFolder) -> None:
    """Raise RunError where no trial came to its end, or where one failed for lack of a place to write to."""
    trials = folder.all_trials()
    if not trials:
        raise RunError(
            f"{folder.path}: no trial was begun; what stopped them is in the lines above, or in {folder.path / 'tune'}"
        )
    failed = [trial for trial in trials if trial.state == "failed"]
    disk = [trial for trial in failed if trial.message.startswith(StorageError.__name__)]
    if disk or (failed and len(failed) == len(trials)):
        first = (disk or failed)[0]
        raise RunError(
            f"{len(failed)} of {plural(len(trials), 'trial')} failed; trial {first.id}: {first.message}. When that is "
            "mended, go on with --resume --retry-failed"
        )


def describe(
    folder: SweepFolder,
    definition: SweepDefinition,
    trials: Sequence[Trial],
    configs: Sequence[RunConfig],
    at_once: int,
) -> str:
    """Return the lines a user reads before a search starts; prepares the data, and checks every point against it."""
    config = configs[0]
    groups = {trial.burn_in for trial in trials if trial.burn_in is not None}
    data = family_of(config).prepare(config, folder.data)
    for each in configs:
        family_of(each).check(each, data)
    over = sum(trial.is_over for trial in trials)
    number = definition.samples if definition.is_adaptive else len(trials)
    claims = ", ".join(f"{amount:g} {name}" for name, amount in total(claims_of_trial(config)).items())
    own = sum(trial.burn_in is None for trial in trials)
    num_burn_ins = len(groups)
    burn_ins = f"shared burn-ins: {num_burn_ins}"
    burn_ins += f"; {plural(own, 'trial trains its', 'trials train their')} own" if own else ""
    if definition.is_adaptive:
        num_burn_ins = most_burn_ins(config, definition.keys, number)
        burn_ins = f"points are suggested by {definition.search}; shared burn-ins: at most {num_burn_ins}"
    disk = disk_of(config, data, at_once=at_once, num_burn_ins=num_burn_ins)
    already = f", {over} of them over" if over else ""
    return "\n".join(
        [
            f"raydet tune: {definition.name} in {folder.path}",
            f"  {plural(number, 'trial')}{already}; {definition.mode} of val {definition.metric}",
            f"  each claims {claims}: {at_once} at once",
            f"  {burn_ins}; scheduler: {definition.scheduler}",
            f"  disk: up to about {disk.at_once / MB:.0f} MB while it runs, {disk.at_the_end / MB:.0f} MB at the end",
        ]
    )


def _planned(
    folder: SweepFolder, sweep: Sweep, name: str, base: RunConfig, samples: int | None, seeds: Sequence[int]
) -> tuple[dict[str, Any], list[Trial]]:
    """Return a new search's header and trials, checked as far as can be without a cluster; writes nothing."""
    folder.check_free()
    check_metric(base)
    if len(set(seeds)) < len(seeds):
        raise SpaceError(f"--seeds {' '.join(map(str, seeds))}: a seed stands there twice")
    if samples is not None and not sweep.is_drawn:
        what = f"{', '.join(sweep.space)}: grids" if sweep.space else "variants, or seeds alone"
        raise SpaceError(
            f"--samples {samples}: the search draws nothing at random ({what}), every point of it is run once; leave "
            f"--samples out, or give a key a random domain, e.g. tune.uniform(0.5, 0.9)"
        )
    tree, count = base.model_dump(mode="json"), samples or sweep.samples
    header = header_of(name, sweep, base, seeds, count)
    if sweep.search == "optuna":
        require_optuna()
        if len(seeds) > 1:
            raise SpaceError("search='optuna' suggests single runs; several seeds per point need search='random'")
        if list(seeds) != [base.seed]:
            raise SpaceError(
                f"--seeds {seeds[0]}: search='optuna' runs what it suggests with the configuration's seed, which is "
                f"{base.seed}; leave --seeds out and set seed={seeds[0]} (data.split_seed draws the labelled images)"
            )
        check_one_place(check_points(tree, draw_points(sweep, 32), where="config"))
        trials = []
    else:
        points = points_of(sweep, samples=count, seed=base.seed)
        check_one_place(check_points(tree, points, where="config"))
        if list(seeds) != [base.seed]:
            check_seeds(points, sweep, seeds)
        trials = with_shared_burn_ins(trials_of(points, sweep, base, seeds), folder, base)
    configs = _configs(folder, parse_definition(header, folder.path), trials)
    longest = max(config.last_step for config in configs)
    if sweep.scheduler is not None and sweep.scheduler.grace_steps > longest:
        raise SpaceError(f"Asha(grace_steps={sweep.scheduler.grace_steps}) exceeds the trials' {longest} steps")
    return header, trials


def _resumed(
    folder: SweepFolder,
    sweep: Sweep,
    name: str,
    base: RunConfig,
    samples: int | None,
    seeds: Sequence[int],
    *,
    retry_failed: bool,
) -> tuple[dict[str, Any], list[Trial]]:
    """Return a search's header and trials, those that an earlier process left unfinished waiting again.

    Raises ConfigError where it would go on with another question. A searcher may be asked for more samples; cluster,
    pool and log may change.
    """
    if not folder.header_file.exists():
        raise ConfigError(f"--resume: there is no search at {folder.path}; start it without --resume")
    was = read_definition(folder.path)
    is_edited = was.file_samples not in (None, sweep.samples)
    count = samples or (sweep.samples if is_edited else was.samples)
    header = header_of(name, sweep, base, seeds or was.seeds, count)
    now = parse_definition(header, folder.path)
    changed = [line for line in differences(was.base, base) if not line.startswith(FREE_TO_CHANGE)]
    if (was.keys, was.space, was.settings, was.metric, was.mode, was.search, was.scheduler) != (
        (now.keys, now.space, now.settings, now.metric, now.mode, now.search, now.scheduler)
    ):
        changed.append("the space file: what it varies, its settings, metric, mode, search or scheduler")
    if was.seeds != now.seeds:
        changed.append(f"--seeds: {was.seeds} -> {now.seeds}")
    if count != was.samples and not (was.is_adaptive and count > was.samples):
        in_file = f"the space file's samples: {was.file_samples} -> {sweep.samples}"
        changed.append(f"--samples: {was.samples} -> {samples}" if samples else in_file)
    if changed:
        raise ConfigError(
            f"--resume: this differs from what {folder.path} was started with:\n  "
            + "\n  ".join(changed)
            + "\nset it back, or start a new search in another run.dir"
        )
    return header, _revived(folder, retry_failed=retry_failed)


def _revived(folder: SweepFolder, *, retry_failed: bool) -> list[Trial]:
    """Return the search's trials, the first of each burn-in's group first; unfinished ones wait again."""
    found = []
    for trial in folder.all_trials():
        again = trial.state in ("burn-in", "running") or (retry_failed and trial.state == "failed")
        found.append(folder.save(trial, state="waiting", message="", ended=None) if again else trial)
    first_of: dict[str, str] = {}
    for trial in found:
        if trial.burn_in is not None:
            first_of.setdefault(trial.burn_in, trial.id)
    return sorted(found, key=lambda t: (t.burn_in is not None and first_of[t.burn_in] != t.id, t.id))


def _configs(folder: SweepFolder, definition: SweepDefinition, trials: Sequence[Trial]) -> list[RunConfig]:
    """Return the trials' configurations; for a searcher, whose points are not known yet, what they have in common."""
    if trials:
        return [folder.config_of(trial, definition.base) for trial in trials]
    return [resolve(definition.base.model_dump(mode="json"), definition.settings)]


def _number_left(definition: SweepDefinition, trials: Sequence[Trial]) -> int:
    """Return how many trials are still to be run."""
    over = sum(trial.is_over for trial in trials)
    return max(0, (definition.samples if definition.is_adaptive else len(trials)) - over)
