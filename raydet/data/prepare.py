"""From a `DataConfig` to index files: read, check, split, and put the boxes of unlabelled images out of reach."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from raydet.config.detection_data import DataConfig, DatasetConfig
from raydet.data.files import replacing
from raydet.data.formats.detect import read_source
from raydet.data.index import DatasetIndex, write_index
from raydet.data.problems import ProblemLog
from raydet.data.rules import usable
from raydet.data.sets import given_sets, report_relations, with_common_classes, with_split
from raydet.data.source import Table
from raydet.data.splits import labeled_rows
from raydet.errors import DataError

_MANIFEST = "prepared.json"  # written last: present means complete
_TITLE = "the data cannot be used (`raydet check-data` lists everything)"
_SETS = ("labeled", "unlabeled", "hidden", "val", "test")


@dataclass(frozen=True, slots=True, eq=False)
class PreparedData:
    """The index files of one run. The boxes of unlabelled images are not among them; see `open_hidden`."""

    folder: Path
    class_names: tuple[str, ...]
    labeled: DatasetIndex
    unlabeled: DatasetIndex | None
    val: DatasetIndex | None
    test: DatasetIndex | None
    warnings: tuple[str, ...] = ()


def prepare(config: DataConfig, folder: Path) -> PreparedData:
    """Write `FOLDER/{labeled,unlabeled,hidden,val,test}.arrow` and `FOLDER/split.json`; a saved split is used again.

    Raises DataError that lists the first errors of all sets. What training survives is in `warnings`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = ProblemLog()
    tables = {name: _read(name, one, config, folder, log) for name, one in given_sets(config).items()}
    log.raise_errors(_TITLE)
    tables = with_common_classes(tables, config, log)
    log.raise_errors(_TITLE)
    tables = with_split(tables, labeled_rows(config, tables["labeled"], folder / "split.json"))
    report_relations(tables, config, log)
    log.raise_errors(_TITLE)
    _write(tables, folder)
    return _open(folder, log.warnings())


def open_prepared(folder: str | Path) -> PreparedData:
    """Open what `prepare` wrote. Raises DataError where it is missing, incomplete or damaged."""
    return _open(Path(folder), ())


def open_hidden(folder: str | Path) -> DatasetIndex | None:
    """Return the true boxes of the unlabelled images, for diagnostics only; None where there are none."""
    return _optional(Path(folder), "hidden", _manifest(Path(folder)))


def _read(name: str, one: DatasetConfig, config: DataConfig, folder: Path, log: ProblemLog) -> Table:
    try:
        source = read_source(one, log, folder / "shapes" / name)
    except DataError as error:
        raise DataError(f"data.{name}: {error}") from None
    return usable(source, config.on_bad_box, log)


def _write(tables: dict[str, Table], folder: Path) -> None:
    (folder / _MANIFEST).unlink(missing_ok=True)
    tables = dict(tables)
    if "unlabeled" in tables:
        if len(tables["unlabeled"].classes):
            tables["hidden"] = tables["unlabeled"]
        tables["unlabeled"] = tables["unlabeled"].without_boxes()
    for name in _SETS:
        if name in tables:
            write_index(folder / f"{name}.arrow", tables[name])
        else:
            (folder / f"{name}.arrow").unlink(missing_ok=True)
    content = {"sets": [name for name in _SETS if name in tables]}
    with replacing(folder / _MANIFEST) as stream:
        stream.write(json.dumps(content).encode())


def _open(folder: Path, warnings: tuple[str, ...]) -> PreparedData:
    sets = _manifest(folder)
    labeled = DatasetIndex.open(folder / "labeled.arrow")
    unlabeled, val, test = (_optional(folder, name, sets) for name in ("unlabeled", "val", "test"))
    return PreparedData(folder, labeled.class_names, labeled, unlabeled, val, test, warnings)


def _optional(folder: Path, name: str, sets: list[str]) -> DatasetIndex | None:
    return DatasetIndex.open(folder / f"{name}.arrow") if name in sets else None


def _manifest(folder: Path) -> list[str]:
    file = folder / _MANIFEST
    try:
        return list(json.loads(file.read_bytes())["sets"])
    except FileNotFoundError:
        raise DataError(f"{folder}: no prepared data there (no {_MANIFEST}); prepare the data first") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: damaged ({error}); prepare the data again") from None
