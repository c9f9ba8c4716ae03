"""`raydet check-data`: all problems of a data set at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from raydet.errors import UserError


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("check-data", help="list all problems of a data set at once")
    parser.add_argument("config_or_dataset", help="raydet YAML config, or a data set path")
    parser.add_argument("--images", help="image root of a COCO JSON")
    parser.add_argument("--subset", help="VOC list or YOLO train, val, test")
    parser.add_argument("--no-decode", action="store_true", help="do not decode every image (faster)")
    parser.add_argument("--fix", choices=("drop", "clip"), help="write a cleaned COCO JSON to --out")
    parser.add_argument("--out", help="where --fix writes")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check, or write a cleaned copy; returns 1 where errors were found."""
    from raydet.config.detection_data import DatasetConfig
    from raydet.data.check import check_dataset, fix_dataset, format_report

    target = Path(arguments.config_or_dataset)
    is_config = target.suffix in (".yaml", ".yml") and target.name not in ("data.yaml", "data.yml")
    if arguments.fix:
        if not arguments.out or is_config:
            raise UserError("--fix works on one data set and writes to --out FILE.json")
        dataset = DatasetConfig(path=str(target), images=arguments.images, subset=arguments.subset)
        fixed = fix_dataset(dataset, arguments.fix, Path(arguments.out))
        print(format_report(fixed.report))
        print(f"written: {fixed.file}; use it with images: {fixed.images}")
        return 0
    if is_config:
        from raydet.config.load import load
        from raydet.tasks import task_of

        report = task_of(load(target)).check_data(decode_images=not arguments.no_decode)
    else:
        dataset = DatasetConfig(path=str(target), images=arguments.images, subset=arguments.subset)
        report = check_dataset(dataset, decode_images=not arguments.no_decode)
    print(format_report(report))
    return 1 if report.num_errors else 0
