"""`raydet check-data`: all problems of a data set at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydet.config.paths import path_argument
from raydet.errors import UserError
from raydet.registry import NAMES

if TYPE_CHECKING:
    from raydet.data.check import CheckReport
    from raydet.data.family import DataFamily


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("check-data", help="list all problems of a data set at once")
    parser.add_argument("config_or_dataset", type=path_argument, help="raydet YAML config, or a data set path")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings that replace the config's (data.val=...), or of the one data set (label_column=...)",
    )
    parser.add_argument("--images", type=path_argument, help="image root of a COCO JSON")
    parser.add_argument("--subset", help="VOC list, or the part (train, val, test) of a YOLO or classification set")
    parser.add_argument(
        "--task",
        choices=NAMES,
        help="what a data set is for; default: by what lies there",
    )
    parser.add_argument("--no-decode", action="store_true", help="do not decode every image (faster)")
    parser.add_argument("--fix", choices=("drop", "clip"), help="write a cleaned COCO JSON to --out")
    parser.add_argument("--out", type=path_argument, help="where --fix writes")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check, or write a cleaned copy; returns 1 where errors were found."""
    from raydet.data.check import format_report
    from raydet.data.yaml_kind import is_yaml, yaml_kind

    target = Path(arguments.config_or_dataset)
    is_config = is_yaml(target) and not (target.is_file() and yaml_kind(target) == "data set")
    if arguments.fix and (not arguments.out or is_config):
        raise UserError("--fix works on one data set and writes to --out FILE.json")
    if arguments.out and not arguments.fix:
        raise UserError("--out is where --fix writes; add --fix drop or --fix clip, or leave --out away")
    if is_config:
        report = _of_config(arguments)
    else:
        kind, given = data_set_of(arguments.config_or_dataset, arguments)
        if arguments.fix:
            return _fix(kind, given, arguments)
        images, one = _one(kind, given)
        report = images.check_one(one, decode_images=not arguments.no_decode)
    print(format_report(report))
    return 1 if report.num_errors else 0


def _of_config(arguments: argparse.Namespace) -> CheckReport:
    from raydet.registry import family_of
    from raydet.settings import load

    for option in ("images", "subset", "task"):
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option} is for a data set by itself; {arguments.config_or_dataset} is a config")
    config = load(arguments.config_or_dataset, arguments.overrides)
    return family_of(config).check_data(config, decode_images=not arguments.no_decode)


def data_set_of(path: str, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Return what a data set is for, and its settings: `path` with what the options say about it."""
    from raydet.data.kind import kind_of
    from raydet.settings import parse_override

    if others := [word for word in arguments.overrides if "=" not in word]:
        raise UserError(
            f"{path} and {others[0]}: one data set at a time; quote a glob, so that the shell leaves it whole"
        )
    given = {"path": path, "images": arguments.images, "subset": arguments.subset}
    given = {key: value for key, value in given.items() if value is not None}
    given |= dict(parse_override(text) for text in arguments.overrides)
    if arguments.task is not None:
        return arguments.task, given
    kind = kind_of(path, given.get("subset"), given.get("images"))
    print(f"taken for a {kind} data set; where that is wrong, give --task")
    return kind, given


def _fix(kind: str, given: dict[str, Any], arguments: argparse.Namespace) -> int:
    from raydet.data.check import format_report

    images, one = _one(kind, given)
    fixed = images.fix(one, arguments.fix, Path(arguments.out))
    print(format_report(fixed.report))
    print(f"written: {fixed.file}; use it with images: {fixed.images}")
    return 0


def _one(kind: str, given: dict[str, Any]) -> tuple[DataFamily[Any, Any, Any], Any]:
    """Return how a family reads its data, and the settings of one set, checked."""
    from raydet.config.load import resolve_section
    from raydet.registry import family_named

    images = family_named(kind).images
    return images, resolve_section(images.set_config, given, where=given["path"])
