"""`raydet train`: one run from a YAML config."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from raydet.config.paths import path_argument
from raydet.errors import UserError

if TYPE_CHECKING:
    from raydet.config.run import RunConfig


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("train", help="train from a YAML config")
    parser.add_argument("config", type=path_argument, help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that replace the file's")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="go on with the run in run.dir")
    start.add_argument(
        "--start-or-resume", action="store_true", help="the same command for the first and every later start: for jobs"
    )
    parser.add_argument(
        "--from",
        dest="start",
        type=_start,
        metavar="STEP|healthy",
        help="with --resume: go back to the checkpoint of that step (0: the beginning), or to the newest one from "
        "before the run diverged; newer ones are moved to RUN/abandoned",
    )
    parser.add_argument(
        "--report", action="store_true", help="write RUN/report.html at the end, as `raydet report` does"
    )
    parser.add_argument("--print-config", action="store_true", help="show the resolved config and stop")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Train, or show the configuration."""
    from raydet.settings import dump_file, load

    config = load(arguments.config, arguments.overrides)
    if arguments.print_config:
        print(dump_file(config), end="")
        return
    if arguments.report:
        from raydet.report.page import check_can_draw

        check_can_draw()  # before hours of training, not after
    from raydet.train.launch import launch
    from raydet.train.rundir import RunFolder

    is_started = arguments.start_or_resume and RunFolder(config.run.dir).is_started
    if arguments.start is not None and not arguments.resume:
        raise UserError("--from goes with --resume: it says where a run goes on")
    beside = Path(arguments.config).absolute().parent
    if arguments.resume and not RunFolder(config.run.dir).is_started and RunFolder(beside).is_started:
        raise UserError(
            f"--resume: there is no run at run.dir={config.run.dir}, which {arguments.config} names; where the run was "
            f"moved or copied to {beside}, add run.dir={beside}"
        )
    folder = launch(config, resume=arguments.resume or is_started, start=arguments.start)
    if arguments.report:
        from raydet.report.write import write_report  # matplotlib only where it is wanted

        print(f"report: {write_report(folder.path)}")
    print("\n".join(_next(config, arguments.report)))


def _next(config: RunConfig, has_report: bool) -> list[str]:
    """Return what is there now, and what to do with it."""
    run = config.run.dir
    commands = [f"raydet report {run}"] * (not has_report) + [f"raydet evaluate {run}"] * config.data.has_val
    return [f"trained: {run}", *(f"  {command}" for command in commands)]


def _start(text: str) -> int | str:
    """Return what --from names."""
    if text == "healthy":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: expected a step (0 or more), or healthy")
    return int(text)
