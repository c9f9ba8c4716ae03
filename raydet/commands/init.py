"""`raydet init`: a commented configuration for a data set and this machine."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydet.config.paths import path_argument
from raydet.errors import UserError
from raydet.registry import NAMES
from raydet.text import plural

if TYPE_CHECKING:
    from raydet.config.run import RunConfig
    from raydet.recipe.machine import Machine
    from raydet.recipe.request import Recipe

PARTS = {"annotations", "train", "images", "labels", "data"}  # names that say nothing about a data set


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("init", help="write a commented config that suits a data set and this machine")
    parser.add_argument(
        "dataset",
        type=path_argument,
        help="labelled data set: COCO, VOC, YOLO, a folder per class, Parquet, ... or `shapes`",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings of the data set, as in check-data (label_column=...)",
    )
    parser.add_argument(
        "--unlabeled", type=path_argument, metavar="DIR", help="folder, glob or data set of more images, without labels"
    )
    parser.add_argument(
        "--val",
        type=path_argument,
        metavar="DATASET",
        help="validation set; default: what lies beside, else some are withheld",
    )
    parser.add_argument("--labels", type=int, metavar="N", help="use only N labelled images; the rest is unlabelled")
    parser.add_argument("--method", help="default: one that uses the unlabelled images, where there are any")
    parser.add_argument("--images", type=path_argument, help="image root of a COCO JSON")
    parser.add_argument("--subset", help="VOC list, or the part (train) of a YOLO or classification set")
    parser.add_argument(
        "--task",
        choices=NAMES,
        help="default: by what lies there, boxes or classes or both; anything else only where it is asked for",
    )
    parser.add_argument("--out", type=path_argument, metavar="FILE.yaml", help="default: the data set's name, here")
    parser.add_argument("--no-measure", action="store_true", help="do not train a few steps to measure their time")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Look, choose, check what was chosen, measure, write."""
    out = _out(arguments)
    if arguments.labels is not None and arguments.labels < 1:
        raise UserError(f"--labels {arguments.labels}: give a number of images, at least 1")
    from raydet import __version__
    from raydet.commands.check_data import data_set_of
    from raydet.recipe.document import render
    from raydet.settings import resolve

    kind, given = data_set_of(arguments.dataset, arguments)
    machine = _machine()
    recipe = _recipe(kind, given, machine, out, arguments)
    config = resolve(_checked(recipe, out).model_dump(mode="json"), recipe.stand_in)
    notes = [*recipe.notes, *_check_data(config, arguments.dataset, out)]
    time = "not measured (--no-measure)" if arguments.no_measure else _time(config, machine)
    next_steps = [
        *recipe.first,
        shlex.join(["raydet", "check-data", str(out)]),
        shlex.join(["raydet", "train", str(out)]),
    ]
    head = [
        f"Written by raydet {__version__} for {machine}. Recipes and what was measured with them: docs/recipes.md",
        *notes,
        f"Time: {time}",
        "This file, and what comes next:",
    ]
    _write(out, render(head, recipe.settings, commands=[_command(arguments), *next_steps]))
    said = [*notes, f"time: {time}", "", f"written: {out}; every value in it says why"]
    print("\n".join([*said, *(f"  {step}" for step in next_steps)]))


def _out(arguments: argparse.Namespace) -> Path:
    """Return where to write. Raises UserError where something is there already."""
    out = Path(arguments.out if arguments.out is not None else f"{_name(arguments.dataset)}.yaml")
    if out.suffix not in (".yaml", ".yml"):
        raise UserError(f"--out {out}: a config is a .yaml file; give one")
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} is there already, and is not overwritten; give another --out, or move it")
    return out


def _name(dataset: str) -> str:
    """Return a short name for a data set: of its file or folder, or of the one above where that says nothing."""
    path = Path(dataset).expanduser()
    names = [
        re.sub(r"[^A-Za-z0-9_-]+", "_", part).strip("_") for part in (path.stem, *path.absolute().parent.parts[::-1])
    ]
    telling = (
        name for name in names if name and name.lower() not in PARTS and not re.search(r"train", name, re.IGNORECASE)
    )
    return next(telling, "run")


def _machine() -> Machine:
    import torch

    from raydet.doctor.probe import look
    from raydet.precision import NAMES, autocast_dtype
    from raydet.recipe.machine import Machine

    dtype = autocast_dtype("auto", torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return Machine.of(look(), NAMES[dtype])


def _recipe(kind: str, given: Mapping[str, Any], machine: Machine, out: Path, arguments: argparse.Namespace) -> Recipe:
    from raydet.data.siblings import sets_of
    from raydet.recipe.request import Request
    from raydet.registry import family_named

    sets = sets_of(given)
    if arguments.val is not None:
        sets["val"] = _val(arguments.val)
    if arguments.unlabeled is not None:
        sets["unlabeled"] = {"path": arguments.unlabeled}
    request = Request(f"runs/{out.stem}", sets, machine, arguments.labels, arguments.method)
    return family_named(kind).propose(request)


def _val(path: str) -> dict[str, Any]:
    """Return the validation set of `--val`: a data set's own part for it; a file of annotations is meant as it is."""
    from raydet.data.siblings import sets_of
    from raydet.data.yaml_kind import is_yaml

    has_parts = Path(path).is_dir() or is_yaml(Path(path))
    return (sets_of({"path": path}) if has_parts else {}).get("val", {"path": path})


def _checked(recipe: Recipe, out: Path) -> RunConfig:
    """Return the configuration as `raydet train` will read it."""
    from raydet.config.load import read_yaml
    from raydet.recipe.document import render
    from raydet.settings import resolve

    return resolve(read_yaml(render([], recipe.settings), str(out)), {}, where=str(out))


def _check_data(config: RunConfig, dataset: str, out: Path) -> list[str]:
    """Return a note that counts the warnings about the data, where there are any.

    Raises UserError that lists the first errors, of all sets and between them.
    """
    from raydet.data.check import counted_warnings, format_report
    from raydet.registry import family_of

    report = family_of(config).check_data(config, decode_images=False)
    if report.num_errors:
        raise UserError(
            f"{dataset} cannot be used as it is, no config was written\n{format_report(report, per_code=3)}"
        )
    listed = shlex.join(["raydet", "check-data", str(out)])
    return [f"WARNINGS, listed by `{listed}`: {counted_warnings(report)}"] if report.num_warnings else []


def _time(config: RunConfig, machine: Machine) -> str:
    """Return what a few steps of this very configuration say about the run's time."""
    from raydet.doctor.measure import measure

    print("measuring a few steps of this configuration (--no-measure leaves that out) ...", flush=True)
    try:
        text = measure(config).text
    except UserError as error:
        return f"could not be measured: {error}"
    is_shared = machine.load > 1.5 * machine.cpus
    busy = (
        f". Measured while {plural(round(machine.load), 'program')} shared {plural(machine.cpus, 'core')}: "
        "alone it is faster"
    )
    return text + (busy if is_shared else "")


def _command(arguments: argparse.Namespace) -> str:
    """Return the command as a shell takes it."""
    words = ["raydet", "init", arguments.dataset, *arguments.overrides]
    for name in ("unlabeled", "val", "labels", "method", "images", "subset", "task", "out"):
        if (value := getattr(arguments, name)) is not None:
            words += [f"--{name}", str(value)]
    return shlex.join([*words, *(["--no-measure"] if arguments.no_measure else [])])


def _write(out: Path, text: str) -> None:
    """Write a file that is not there yet."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{out} is there already, and is not overwritten; give another --out, or move it") from None
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}; give another --out") from None
