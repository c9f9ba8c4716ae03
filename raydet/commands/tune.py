"""`raydet tune`: a search over settings, with shared burn-ins."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raydet.config.paths import expand_path, path_argument
from raydet.errors import UserError


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("tune", help="search over settings with Ray Tune")
    parser.add_argument(
        "--config", type=path_argument, required=True, help="YAML file: the setting that the search varies"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="SPACE | key.path=value",
        help="a Python file with the search space, e.g. one of tune_spaces/ (none, where only --seeds vary), and "
        "settings that replace the configuration's",
    )
    parser.add_argument("--metric", help="the figure that decides, instead of the space file's, e.g. error, top5_error")
    parser.add_argument("--samples", type=int, help="draws from random domains, instead of the space file's number")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="run every point with each of these seeds")
    parser.add_argument("--concurrent", type=int, help="at most so many trials at once")
    parser.add_argument("--resume", action="store_true", help="go on with the search; finished trials are kept")
    parser.add_argument("--start-or-resume", action="store_true", help="the same command for every start: for jobs")
    parser.add_argument("--retry-failed", action="store_true", help="with --resume: try failed trials again")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Search, then say where the results are."""
    from raydet.settings import load

    # argparse takes what follows --seeds for seeds; overrides go before it or after another option.
    for name in ("samples", "concurrent"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: at least 1")
    if arguments.retry_failed and not (arguments.resume or arguments.start_or_resume):
        raise UserError("--retry-failed goes with --resume")
    space, overrides = split_words(arguments.overrides)
    if space is None and len(arguments.seeds) < 2 and not (arguments.resume or arguments.start_or_resume):
        raise UserError("nothing varies: name a space file, e.g. one of tune_spaces/, or give several --seeds")
    base = load(arguments.config, overrides)
    from raydet.sweep.run import search
    from raydet.sweep.space import load_sweep, only_seeds

    sweep = only_seeds() if space is None else load_sweep(_place(space))
    if arguments.metric is not None:
        sweep = replace(sweep, metric=arguments.metric, mode=None)
    name = "seeds" if space is None else Path(space).stem
    home = home_of(base.run.dir, name, overrides)
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


def split_words(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the space file, where one is named, and the settings. Raises UserError for more than one file."""
    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise UserError(f"{' and '.join(files)}: one space file at a time, and settings as key.path=value")
    return (files[0] if files else None), [word for word in words if "=" in word]


def _place(space: str) -> str:
    """Return the space file's path, written out. Raises UserError where that cannot be."""
    try:
        return expand_path(space)
    except ValueError as error:
        raise UserError(f"space file: {error}") from None


def home_of(run_dir: str, name: str, overrides: list[str]) -> Path:
    """Return the search's folder: run.dir where it is given on the command line, else the file's with the space's name.

    So a search does not land in the folder where `raydet train` with the same file has put its run.
    """
    is_given = any(text.startswith("run.dir=") for text in overrides)
    return Path(run_dir if is_given else f"{run_dir}-{name}").absolute()
