"""`raydet train`: one run from a YAML config."""

from __future__ import annotations

import argparse


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("train", help="train from a YAML config")
    parser.add_argument("config", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that replace the file's")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="go on with the run in run.dir")
    start.add_argument(
        "--start-or-resume", action="store_true", help="the same command for the first and every later start: for jobs"
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
    folder = launch(config, resume=arguments.resume or is_started)
    if arguments.report:
        from raydet.report.write import write_report  # matplotlib only where it is wanted

        print(f"report: {write_report(folder.path)}")
