"""`raydet tune`: a search over settings, with shared burn-ins."""

from __future__ import annotations

import argparse
from pathlib import Path

from raydet.config.paths import path_argument


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("tune", help="search over settings with Ray Tune")
    parser.add_argument("space", type=path_argument, help="Python file with the search space, e.g. one of tune_spaces/")
    parser.add_argument(
        "--config", type=path_argument, required=True, help="YAML file: the setting that the search varies"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that replace the file's")
    parser.add_argument("--samples", type=int, help="draws from random domains, instead of the space file's number")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="run every point with each of these seeds")
    parser.add_argument("--concurrent", type=int, help="at most so many trials at once")
    parser.add_argument("--resume", action="store_true", help="go on with the search; finished trials are kept")
    parser.add_argument("--start-or-resume", action="store_true", help="the same command for every start: for jobs")
    parser.add_argument("--retry-failed", action="store_true", help="with --resume: try failed trials again")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Search, then say where the results are."""
    from raydet.errors import UserError
    from raydet.settings import load

    # argparse takes what follows --seeds for seeds; overrides go before it or after another option.
    for name in ("samples", "concurrent"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: at least 1")
    if arguments.retry_failed and not (arguments.resume or arguments.start_or_resume):
        raise UserError("--retry-failed goes with --resume")
    base = load(arguments.config, arguments.overrides)
    from raydet.sweep.run import search
    from raydet.sweep.space import load_sweep

    sweep = load_sweep(arguments.space)
    name = Path(arguments.space).stem
    home = home_of(base.run.dir, name, arguments.overrides)
    is_started = arguments.start_or_resume and (home / "sweep.json").exists()
    search(
        sweep,
        name,
        base,
        home,
        samples=arguments.samples,
        seeds=arguments.seeds,
        resume=arguments.resume or is_started,
        retry_failed=arguments.retry_failed,
        limit=arguments.concurrent,
    )


def home_of(run_dir: str, name: str, overrides: list[str]) -> Path:
    """Return the search's folder: run.dir where it is given on the command line, else the file's with the space's name.

    So a search does not land in the folder where `raydet train` with the same file has put its run.
    """
    is_given = any(text.startswith("run.dir=") for text in overrides)
    return Path(run_dir if is_given else f"{run_dir}-{name}").absolute()
