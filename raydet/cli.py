"""The `raydet` command: thin; parses, loads, calls, and turns a user's mistake into one message and exit code 2."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from raydet import __version__
from raydet.errors import RunError, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 failed, 2 the user's mistake, 130 interrupted."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes no overrides behind an option: `raydet train config.yaml --resume optim.steps=9` leaves them over.
    if any(word.startswith("-") for word in rest) or (rest and arguments.run is not _train):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    return run_guarded(lambda: arguments.run(arguments))


def run_guarded(command: Callable[[], int | None]) -> int:
    """Run a command; a UserError becomes one message on stderr, Ctrl-C a hint. Returns the exit code."""
    try:
        return int(command() or 0)
    except UserError as error:
        print(f"raydet: error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"raydet: failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nraydet: interrupted; go on with --resume", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="raydet", description="Label-efficient detection on Ray.")
    parser.add_argument("--version", action="version", version=f"raydet {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train from a YAML config")
    train.add_argument("config", help="YAML file")
    train.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that replace the file's")
    train.add_argument("--resume", action="store_true", help="go on with the run in run.dir")
    train.add_argument("--print-config", action="store_true", help="show the resolved config and stop")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="COCO AP of a run or a checkpoint")
    evaluate.add_argument("run_or_checkpoint", help="run folder or checkpoint folder")
    evaluate.add_argument("--data", help="data set instead of the run's own (COCO JSON, VOC or YOLO folder)")
    evaluate.add_argument("--images", help="image root of a COCO JSON given with --data")
    evaluate.add_argument("--split", choices=("val", "test"), default="val", help="which of the run's own data sets")
    evaluate.add_argument("--model", choices=("teacher", "student"), help="default: the teacher where there is one")
    evaluate.add_argument("--json", action="store_true", help="print the figures as JSON")
    evaluate.set_defaults(run=_evaluate)

    check = commands.add_parser("check-data", help="list all problems of a data set at once")
    check.add_argument("config_or_dataset", help="raydet YAML config, or a data set path")
    check.add_argument("--images", help="image root of a COCO JSON")
    check.add_argument("--subset", help="VOC list or YOLO train, val, test")
    check.add_argument("--no-decode", action="store_true", help="do not decode every image (faster)")
    check.add_argument("--fix", choices=("drop", "clip"), help="write a cleaned COCO JSON to --out")
    check.add_argument("--out", help="where --fix writes")
    check.set_defaults(run=_check_data)

    export = commands.add_parser("export", help="write a plain model file")
    export.add_argument("run_or_checkpoint", help="run folder or checkpoint folder")
    export.add_argument("--out", required=True, help="FILE.safetensors or FILE.onnx")
    export.add_argument("--model", choices=("teacher", "student"), help="default: the teacher where there is one")
    export.set_defaults(run=_export)

    report = commands.add_parser("report", help="write RUN/report.html")
    report.add_argument("run_dir", help="run folder")
    report.set_defaults(run=_report)
    return parser


# Imports live inside the commands: `raydet --help` and a config error answer at once, without loading torch.


def _train(arguments: argparse.Namespace) -> None:
    from raydet.config.load import dump, load

    config = load(arguments.config, arguments.overrides)
    if arguments.print_config:
        print(dump(config), end="")
        return
    from raydet.train.launch import launch

    launch(config, resume=arguments.resume)


def _evaluate(arguments: argparse.Namespace) -> None:
    from raydet.config.data import DatasetConfig
    from raydet.train.saved import evaluate_model, load_saved

    data = DatasetConfig(path=arguments.data, images=arguments.images) if arguments.data else None
    saved = load_saved(Path(arguments.run_or_checkpoint), role=arguments.model)
    result = evaluate_model(saved, data=data, split=arguments.split)
    # Which model it was: a damaged newest checkpoint is passed over, and figures look alike.
    if arguments.json:
        about = {"checkpoint": str(saved.checkpoint.path), "model": saved.role, "step": saved.checkpoint.step}
        print(json.dumps(about | result.as_json(), indent=1))
    else:
        print(f"{saved.role} of {saved.checkpoint.path}\n{result.as_text()}")


def _check_data(arguments: argparse.Namespace) -> int:
    from raydet.config.data import DatasetConfig
    from raydet.data.check import check_config, check_dataset, fix_dataset, format_report

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

        report = check_config(load(target).data, decode_images=not arguments.no_decode)
    else:
        dataset = DatasetConfig(path=str(target), images=arguments.images, subset=arguments.subset)
        report = check_dataset(dataset, decode_images=not arguments.no_decode)
    print(format_report(report))
    return 1 if report.num_errors else 0


def _export(arguments: argparse.Namespace) -> None:
    from raydet.train.saved import export

    print(export(Path(arguments.run_or_checkpoint), Path(arguments.out), role=arguments.model))


def _report(arguments: argparse.Namespace) -> None:
    from raydet.train.saved import report

    print(report(Path(arguments.run_dir)))
