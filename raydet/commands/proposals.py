"""`raydet proposals`: boxes that may hold an object, of any number of images, for pre-training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from raydet.config.paths import path_argument
from raydet.errors import ConfigError

if TYPE_CHECKING:
    from raydet.proposals.sources import Source

SOURCES = ("selective_search", "grid", "file")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "proposals",
        help="find boxes that may hold an object, without labels",
        description="Run it again after any interruption: it goes on.",
    )
    parser.add_argument(
        "images",
        type=path_argument,
        help="folder, 'glob' (quoted), text file with a path a line, or URI (s3://, gs://, ...)",
    )
    parser.add_argument("--out", type=path_argument, required=True, help="folder for shards and proposals.arrow")
    parser.add_argument(
        "--root", type=path_argument, help="folder or URI that the paths of a list file are relative to"
    )
    parser.add_argument(
        "--source", choices=SOURCES, default=SOURCES[0], help="default selective_search (extra: proposals)"
    )
    parser.add_argument("--boxes", type=path_argument, help="source file: a COCO JSON with boxes of these images")
    parser.add_argument("--scale", type=float, default=500.0, help="of the segmentation (default 500)")
    parser.add_argument("--sigma", type=float, default=0.9, help="of the blur before it (default 0.9)")
    parser.add_argument("--min-size", type=int, default=10, help="pixels of a segment (default 10)")
    parser.add_argument("--color-space", choices=("rgb", "hsv"), default="rgb", help="default rgb")
    parser.add_argument("--max-side", type=int, default=1000, help="larger images are searched at it; 0: never (1000)")
    parser.add_argument(
        "--aspect-range", type=float, nargs=2, default=(1 / 3, 3.0), help="of width / height (1/3 to 3)"
    )
    parser.add_argument(
        "--sqrt-area-range", type=float, nargs=2, default=(0.3, 0.8), help="of the image's (0.3 to 0.8)"
    )
    parser.add_argument("--min-side", type=float, default=0.0, help="pixels of the original image (default 0)")
    parser.add_argument(
        "--gray16-range",
        type=int,
        nargs=2,
        default=(0, 65535),
        metavar=("LOW", "HIGH"),
        help="values of 16-bit pictures that become 0 to 255, as data.views.gray16_range (default 0 65535)",
    )
    parser.add_argument("--actors", type=int, default=1, help="searching processes (default 1); 0: this one, no Ray")
    parser.add_argument("--cpus-per-actor", type=float, default=1.0, help="also the images an actor searches at once")
    parser.add_argument("--address", help="Ray address; default: RAY_ADDRESS where set, else a local Ray")
    parser.add_argument("--shard-images", type=int, default=128, help="images per Parquet file (default 128)")
    parser.add_argument("--retry-skipped", action="store_true", help="search shards with skipped images once more")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Search; an interruption loses nothing that was finished."""
    from raydet.errors import Terminated
    from raydet.proposals.filters import Filters
    from raydet.proposals.run import ProposalOptions, propose

    options = ProposalOptions(
        images=arguments.images,
        out=Path(arguments.out),
        root=arguments.root,
        source=_source(arguments),
        filters=Filters(tuple(arguments.aspect_range), tuple(arguments.sqrt_area_range), arguments.min_side),
        actors=arguments.actors,
        cpus_per_actor=arguments.cpus_per_actor,
        address=arguments.address,
        shard_images=arguments.shard_images,
        retry_skipped=arguments.retry_skipped,
        gray16_range=tuple(arguments.gray16_range),
    )
    try:
        propose(options)
    except KeyboardInterrupt as stopped:
        print("\nraydet: stopped; the same command goes on", file=sys.stderr)
        return 143 if isinstance(stopped, Terminated) else 130
    return 0


def _source(arguments: argparse.Namespace) -> Source:
    from raydet.proposals.sources import Grid, SelectiveSearch, read_file

    if (arguments.boxes is not None) != (arguments.source == "file"):
        raise ConfigError(f"--source {arguments.source}: --boxes FILE belongs to --source file, which needs it")
    if arguments.source == "file":
        return read_file(Path(arguments.boxes))
    if arguments.source == "grid":
        return Grid()
    names = ("scale", "sigma", "min_size", "color_space", "max_side")
    return SelectiveSearch(**{name: getattr(arguments, name) for name in names})
