"""`raydet evaluate`: the figures of a saved model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from raydet.config.paths import path_argument
from raydet.errors import UserError


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("evaluate", help="COCO AP, or accuracy, of a run or a checkpoint")
    parser.add_argument("run_or_checkpoint", type=path_argument, help="run folder or checkpoint folder")
    parser.add_argument(
        "--data", type=path_argument, help="data set instead of the run's own: a path that data.val may have"
    )
    parser.add_argument("--images", type=path_argument, help="image root of a COCO JSON given with --data")
    parser.add_argument("--subset", help="VOC list, or the part (test, ...) of a data set given with --data")
    parser.add_argument("--split", choices=("val", "test"), help="which of the run's own data sets; default: val")
    parser.add_argument("--model", choices=("teacher", "student"), help="default: the teacher where there is one")
    parser.add_argument(
        "--proposals", action="store_true", help="recall and AR of the region proposals instead, whatever their class"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Evaluate and print."""
    from raydet.registry import family_of
    from raydet.train.saved import evaluate_model, load_saved

    given = {"path": arguments.data, "images": arguments.images, "subset": arguments.subset}
    data = {key: value for key, value in given.items() if value is not None}
    if data and arguments.data is None:
        raise UserError("--images and --subset describe the data set of --data; the run's own are chosen with --split")
    if data and arguments.split is not None:
        raise UserError(
            f"--split {arguments.split} chooses among the run's own data sets, and --data gives another one; "
            f"leave out one of them (the part of a data set is --subset)"
        )
    saved = load_saved(Path(arguments.run_or_checkpoint), role=arguments.model)
    settings = family_of(saved.config).images.set_config
    if arguments.images is not None and "images" not in settings.model_fields:
        name, trains = saved.config.method.name, saved.config.trains
        raise UserError(f"--images is the image root of a COCO JSON, and method.name={name} trains a {trains}")
    result = evaluate_model(saved, data=data or None, split=arguments.split or "val", proposals=arguments.proposals)
    # Which model it was: a damaged newest checkpoint is passed over, and figures look alike.
    if arguments.json:
        about = {"checkpoint": str(saved.checkpoint.path), "model": saved.role, "step": saved.checkpoint.step}
        print(json.dumps(about | result.as_json(), indent=1))
    else:
        print(f"{saved.role} of {saved.checkpoint.path}\n{result.as_text()}")
