"""`raydet compare`: runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from raydet.config.paths import path_argument
from raydet.errors import UserError

MAX_IMAGES = 100


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("compare", help="compare runs: curves, classes, pairs over seeds, pictures")
    parser.add_argument(
        "runs",
        type=path_argument,
        nargs="+",
        metavar="RUN",
        help="run folders, two or more, of one kind and one val set",
    )
    parser.add_argument(
        "--out", type=path_argument, metavar="DIR", help="where compare.html goes; default: compare/ beside the runs"
    )
    parser.add_argument(
        "--max-images",
        type=int,
        default=MAX_IMAGES,
        metavar="N",
        help=f"look for pictures where runs differ among so many validation images (default: {MAX_IMAGES}; 0: none)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the table, then write the page, whose pictures may take a while."""
    from raydet.report.compare.runs import read_runs
    from raydet.report.compare.table import as_text
    from raydet.report.compare.write import folder_for, write_comparison

    if arguments.max_images < 0:
        raise UserError(f"--max-images {arguments.max_images}: must be 0 or more")
    compared = read_runs([Path(folder) for folder in arguments.runs])
    print(as_text(compared), flush=True)
    out = None if arguments.out is None else Path(arguments.out)
    print(write_comparison(compared, folder_for(compared, out), max_images=arguments.max_images))
