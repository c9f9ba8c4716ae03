"""Reading the sets that a configuration is written for, by the rules that training applies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from raydet.config.base import DataSection
from raydet.config.load import resolve_section
from raydet.data.family import DataFamily
from raydet.data.problems import ProblemLog
from raydet.data.steps import AnyIndex, AnyTable
from raydet.errors import DataError
from raydet.recipe.document import Setting
from raydet.recipe.request import Counts, Given, Request
from raydet.recipe.rules import counted, data_settings, val_count


def read_sets(images: DataFamily[Any, AnyTable, AnyIndex], request: Request) -> dict[str, AnyTable]:
    """Return "labeled" and, where it was given, "unlabeled".

    Raises DataError where one cannot be read, or has errors, of which it lists the first.
    """
    with TemporaryDirectory(prefix="raydet-init-") as folder:
        return {
            name: _read(images, name, request.sets[name], Path(folder) / name)
            for name in ("labeled", "unlabeled")
            if name in request.sets
        }


def _read(images: DataFamily[Any, AnyTable, AnyIndex], name: str, given: Given, generated: Path) -> AnyTable:
    path, log = str(given["path"]), ProblemLog()
    option = "--unlabeled " if name == "unlabeled" else ""
    try:
        one = resolve_section(images.set_config, given, where=path)
        table, _ = images.read(name, one, log, settings=None, generated=generated, decode_images=False)
        log.raise_errors("cannot be used as it is")
    except DataError as error:
        more = f"; `raydet check-data {path}` lists everything" if log.num_errors else ""
        raise DataError(f"{option}{error}{more}") from None
    if not len(table):
        raise DataError(f"{option}{path}: no image there; give a folder, a glob or a data set with images")
    return table


def chosen(
    images: DataFamily[Any, AnyTable, AnyIndex],
    section: type[DataSection[Any]],
    request: Request,
    tables: Mapping[str, AnyTable],
) -> tuple[AnyTable, Counts]:
    """Return the images that the run will train on with their labels, and how many images of each kind it will have.

    Nothing else decides on settings: what is known of the others is hidden from training, and so it is here.
    """
    whole = tables["labeled"]
    spare = images.spare(whole, val_count(len(whole)))
    counts = counted(request, len(whole), len(tables.get("unlabeled", ())), spare)
    config = resolve_section(section, nested(data_settings(request, counts))["data"], where="data")
    return images.trained_on(config, whole), counts


def nested(settings: list[Setting]) -> dict[str, Any]:
    """Return settings as the mapping that their YAML means."""
    tree: dict[str, Any] = {}
    for setting in settings:
        *parents, last = setting.key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = setting.value
    return tree
