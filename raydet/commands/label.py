"""`raydet label`: label any number of images with a saved model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from raydet.config.paths import path_argument


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "label", help="label any number of images", description="Run it again after any interruption: it goes on."
    )
    parser.add_argument("checkpoint", type=path_argument, help="run folder or checkpoint folder")
    parser.add_argument(
        "images",
        type=path_argument,
        help="folder, 'glob' (quoted), text file with a path a line, or URI (s3://, gs://, ...)",
    )
    parser.add_argument("--out", type=path_argument, required=True, help="folder for shards, coco.json and skipped.csv")
    parser.add_argument(
        "--root",
        type=path_argument,
        help="folder or URI that the paths of a list file are relative to (default: its own)",
    )
    parser.add_argument("--score-threshold", type=float, help="coco.json gets boxes above it; default: the method's")
    parser.add_argument("--model", choices=("teacher", "student"), help="default: the teacher where there is one")
    parser.add_argument("--actors", type=int, default=1, help="labelling processes (default 1); 0: this one, no Ray")
    parser.add_argument("--cpus-per-actor", type=float, default=1.0, help="also its torch and decoding threads")
    parser.add_argument("--gpus-per-actor", type=float, default=0.0, help="fractions share a GPU (default 0)")
    parser.add_argument("--address", help="Ray address; default: RAY_ADDRESS where set, else a local Ray")
    parser.add_argument("--batch", type=int, default=1, help="images per forward; 8 or so on a GPU (default 1)")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="default fp32")
    parser.add_argument("--shard-images", type=int, default=512, help="images per Parquet file (default 512)")
    parser.add_argument("--retry-skipped", action="store_true", help="label shards with skipped images once more")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Label; an interruption loses nothing that was finished."""
    from raydet.errors import Terminated
    from raydet.label_files.run import LabelOptions, label

    options = LabelOptions(
        checkpoint=Path(arguments.checkpoint),
        images=arguments.images,
        out=Path(arguments.out),
        root=arguments.root,
        role=arguments.model,
        score_threshold=arguments.score_threshold,
        actors=arguments.actors,
        cpus_per_actor=arguments.cpus_per_actor,
        gpus_per_actor=arguments.gpus_per_actor,
        address=arguments.address,
        batch=arguments.batch,
        precision=arguments.precision,
        shard_images=arguments.shard_images,
        retry_skipped=arguments.retry_skipped,
    )
    try:
        label(options)
    except KeyboardInterrupt as stopped:
        print("\nraydet: stopped; the same command goes on", file=sys.stderr)
        return 143 if isinstance(stopped, Terminated) else 130
    return 0
