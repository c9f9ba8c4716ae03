"""`raydet export`: a plain model file."""

from __future__ import annotations

import argparse
from pathlib import Path

from raydet.config.paths import path_argument


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("export", help="write a plain model file")
    parser.add_argument("run_or_checkpoint", type=path_argument, help="run folder or checkpoint folder")
    parser.add_argument("--out", type=path_argument, required=True, help="FILE.safetensors or FILE.onnx")
    parser.add_argument(
        "--size",
        metavar="HEIGHTxWIDTH",
        help="FILE.onnx takes one image of this size; default: any number of images of any one size (input images, "
        "uint8 [B, 3, H, W] RGB; outputs boxes, labels, scores and image, the place in the batch)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE where it is there already")
    parser.add_argument("--model", choices=("teacher", "student"), help="default: the teacher where there is one")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the file and say what is in it."""
    from raydet.train.saved import export

    said = export(
        Path(arguments.run_or_checkpoint),
        Path(arguments.out),
        role=arguments.model,
        size=arguments.size,
        overwrites=arguments.overwrite,
    )
    print(said)
