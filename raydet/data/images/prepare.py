"""From an `ImageDataConfig` to index files: read, check, split, and put labels that must not be seen out of reach."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from raydet.config.images import ImageDataConfig, ImageSetConfig
from raydet.data.files import replacing
from raydet.data.images.formats.detect import read_images
from raydet.data.images.index import ImageIndex, write_images
from raydet.data.images.rules import usable
from raydet.data.images.sets import given_sets, needs_labels, report_relations, with_common_classes, with_split
from raydet.data.images.splits import labeled_rows
from raydet.data.images.table import ImageTable
from raydet.data.problems import ProblemLog
from raydet.errors import DataError

_MANIFEST = "prepared.json"  # written last: present means complete
_TITLE = "the data cannot be used (`raydet check-data` lists everything)"
_SETS = ("labeled", "unlabeled", "hidden", "val", "test")
_KIND = "images"  # keeps the folders of detection and classification data apart
_MOST_FILES = 100_000  # more are not opened at the start of a run to find pictures that are in two sets


@dataclass(frozen=True, slots=True, eq=False)
class PreparedImages:
    """The index files of one run. The labels of unlabelled images are not among them; see `open_hidden_images`."""

    folder: Path
    class_names: tuple[str, ...]
    labeled: ImageIndex
    unlabeled: ImageIndex | None
    val: ImageIndex | None
    test: ImageIndex | None
    warnings: tuple[str, ...] = ()


def prepare_images(config: ImageDataConfig, folder: Path) -> PreparedImages:
    """Write `FOLDER/{labeled,unlabeled,hidden,val,test}.arrow` and `FOLDER/split.json`; a saved split is used again.

    Raises DataError that lists the first errors of all sets. What training survives is in `warnings`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = ProblemLog()
    tables = {name: _read(name, one, log) for name, one in given_sets(config).items()}
    log.raise_errors(_TITLE)
    tables = with_common_classes(tables, config, log)
    log.raise_errors(_TITLE)
    tables = with_split(tables, labeled_rows(config, tables["labeled"], folder / "split.json"))
    report_relations(tables, config, log, most_files=_MOST_FILES)
    log.raise_errors(_TITLE)
    _write(tables, folder)
    return _open(folder, log.warnings())


def open_images(folder: str | Path) -> PreparedImages:
    """Open what `prepare_images` wrote. Raises DataError where it is missing, incomplete or damaged."""
    return _open(Path(folder), ())


def open_hidden_images(folder: str | Path) -> ImageIndex | None:
    """Return the true labels of the unlabelled images, row by row as in `unlabeled`, for diagnostics only.

    None where there are none. Pixels are not stored a second time: take them from `unlabeled`.
    """
    return _optional(Path(folder), "hidden", _manifest(Path(folder)))


def _read(name: str, one: ImageSetConfig, log: ProblemLog) -> ImageTable:
    try:
        table = read_images(one, log)
    except DataError as error:
        raise DataError(f"data.{name}: {error}") from None
    return usable(table, one.path, log, needs_labels=needs_labels(name))


def _write(tables: dict[str, ImageTable], folder: Path) -> None:
    (folder / _MANIFEST).unlink(missing_ok=True)
    tables = dict(tables)
    if "unlabeled" in tables:
        if (tables["unlabeled"].labels >= 0).any():
            tables["hidden"] = tables["unlabeled"].without_pixels()
        tables["unlabeled"] = tables["unlabeled"].without_labels()
    for name in _SETS:
        if name in tables:
            write_images(folder / f"{name}.arrow", tables[name])
        else:
            (folder / f"{name}.arrow").unlink(missing_ok=True)
    content = {"kind": _KIND, "sets": [name for name in _SETS if name in tables]}
    with replacing(folder / _MANIFEST) as stream:
        stream.write(json.dumps(content).encode())


def _open(folder: Path, warnings: tuple[str, ...]) -> PreparedImages:
    sets = _manifest(folder)
    labeled = ImageIndex.open(folder / "labeled.arrow")
    unlabeled, val, test = (_optional(folder, name, sets) for name in ("unlabeled", "val", "test"))
    return PreparedImages(folder, labeled.class_names, labeled, unlabeled, val, test, warnings)


def _optional(folder: Path, name: str, sets: list[str]) -> ImageIndex | None:
    return ImageIndex.open(folder / f"{name}.arrow") if name in sets else None


def _manifest(folder: Path) -> list[str]:
    file = folder / _MANIFEST
    try:
        content = json.loads(file.read_bytes())
        kind, sets = content.get("kind"), list(content["sets"])
    except FileNotFoundError:
        raise DataError(f"{folder}: no prepared data there (no {_MANIFEST}); prepare the data first") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: damaged ({error}); prepare the data again") from None
    if kind != _KIND:
        raise DataError(f"{folder}: holds detection data, not images with labels; use another run folder")
    return sets
