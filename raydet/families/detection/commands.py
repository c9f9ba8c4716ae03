"""`raydet thresholds`: which score and quality thresholds the pseudo-labels should be read with."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from raydet.config.paths import path_argument
from raydet.errors import RunError, UserError


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("thresholds", help="precision and recall of the pseudo-labels over a threshold grid")
    parser.add_argument(
        "run_or_checkpoint",
        type=path_argument,
        help="run folder (its stored labels) or checkpoint folder (labels made now)",
    )
    parser.add_argument(
        "--grid",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUES",
        help="score=... and quality=..., each 0.5,0.6,0.7 or START:STOP:COUNT; default: 0.05 to 0.99",
    )
    parser.add_argument(
        "--version", type=int, metavar="STEP", help="stored labels as they were at this teacher version"
    )
    parser.add_argument(
        "--data",
        type=path_argument,
        help="withheld labelled images (COCO JSON, VOC or YOLO folder): labels are made now",
    )
    parser.add_argument("--images", type=path_argument, help="image root of a COCO JSON given with --data")
    parser.add_argument("--subset", help="VOC list, or the part (test, ...) of a data set given with --data")
    parser.add_argument("--max-images", type=int, default=1000, help="judge at most so many images (default: 1000)")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument(
        "--apply",
        type=path_argument,
        metavar="CONFIG.yaml",
        help="write the recommended thresholds into this config file",
    )
    parser.add_argument(
        "--out",
        type=path_argument,
        metavar="NEW.yaml",
        help="with --apply: write a new file and leave the old one alone",
    )
    parser.add_argument(
        "--per-class",
        action="store_true",
        help="with --apply: write a score threshold for each class that wants another one than the rest",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Compute, print, write RUN/thresholds.json and RUN/thresholds.html, and change a config file where asked to.

    Raises UserError or RunError where that cannot be; a RUN that cannot be written is told of last, as the rest can be
    done all the same.
    """
    from raydet.config.box_data import DatasetConfig
    from raydet.families.detection.thresholds.apply import apply, open_target
    from raydet.families.detection.thresholds.result import as_json, as_text, try_thresholds
    from raydet.families.detection.thresholds.write import write_thresholds

    given = {"path": arguments.data, "images": arguments.images, "subset": arguments.subset}
    given = {key: value for key, value in given.items() if value is not None}
    if given and arguments.data is None:
        raise UserError("--images and --subset describe the labelled images of --data; give both")
    if arguments.out and not arguments.apply:
        raise UserError("--out names the file that --apply CONFIG.yaml writes; give both")
    if arguments.per_class and not arguments.apply:
        raise UserError("--per-class says what --apply CONFIG.yaml writes; give both")
    target = None
    if arguments.apply:
        run_or_checkpoint, per_class = arguments.run_or_checkpoint, arguments.per_class
        target = open_target(arguments.apply, arguments.out, run_or_checkpoint, per_class=per_class)
    data = DatasetConfig.model_validate(given) if given else None
    result = try_thresholds(
        Path(arguments.run_or_checkpoint),
        arguments.grid,
        data=data,
        version=arguments.version,
        max_images=arguments.max_images,
    )
    print(json.dumps(as_json(result), indent=1) if arguments.json else as_text(result))
    about, unwritten = sys.stderr if arguments.json else sys.stdout, None
    try:
        print(write_thresholds(result), file=about)
    except (UserError, RunError) as error:
        unwritten = error
    if target is not None:
        print(apply(result, target, per_class=arguments.per_class), file=about)
    if unwritten is not None:
        raise unwritten
