"""`raydet report`: RUN/report.html."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("report", help="write RUN/report.html")
    parser.add_argument("run_dir", help="run folder")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the page and print where it is."""
    from raydet.train.saved import report

    print(report(Path(arguments.run_dir)))
