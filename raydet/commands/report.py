"""`raydet report`: the page of a run or of a search."""

from __future__ import annotations

import argparse
from pathlib import Path

from raydet.config.paths import path_argument
from raydet.errors import UserError


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("report", help="write the HTML report of a run or a search")
    parser.add_argument(
        "folder", type=path_argument, help="folder of a run or of a search; report.html is written there"
    )
    parser.add_argument(
        "--control",
        type=path_argument,
        metavar="RUN",
        help="run on labelled images alone to measure it against; default: one beside it",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the page and print where it is."""
    folder = Path(arguments.folder)
    if (folder / "sweep.json").is_file():
        if arguments.control is not None:
            raise UserError(f"--control is for the report of a run; {folder} holds a search")
        from raydet.sweep.report import write_sweep_report

        print(write_sweep_report(folder))
        return
    from raydet.report.write import write_report  # matplotlib only where it is wanted

    print(write_report(folder, control=None if arguments.control is None else Path(arguments.control)))
