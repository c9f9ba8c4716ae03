"""The index files of one run, below one folder: one per image set, and a manifest that is written last."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from raydet.data.mapped import MappedIndex, forget_damaged, write_damaged
from raydet.data.threads import in_threads
from raydet.errors import DataError
from raydet.files import write_text

AnyIndex = TypeVar("AnyIndex", bound=MappedIndex)
Table = TypeVar("Table")

_MANIFEST = "prepared.json"  # present means complete
SETS = ("labeled", "unlabeled", "hidden", "val", "test")


@dataclass(frozen=True, slots=True, eq=False)
class PreparedSets(Generic[AnyIndex]):
    """The image sets of one run. What is known of unlabelled images is not among them; see `DataFamily.open_hidden`."""

    folder: Path
    class_names: tuple[str, ...]
    labeled: AnyIndex
    unlabeled: AnyIndex | None
    val: AnyIndex | None
    test: AnyIndex | None
    warnings: tuple[str, ...] = ()


def write_sets(folder: Path, kind: str, tables: Mapping[str, Table], write: Callable[[Path, Table], None]) -> None:
    """Write `FOLDER/{labeled,unlabeled,hidden,val,test}.arrow`, those that there are, by `write`."""
    (folder / _MANIFEST).unlink(missing_ok=True)
    for name in SETS:
        forget_damaged(folder / f"{name}.arrow")
        if name in tables:
            write(folder / f"{name}.arrow", tables[name])
        else:
            (folder / f"{name}.arrow").unlink(missing_ok=True)
    content = {"kind": kind, "sets": [name for name in SETS if name in tables]}
    write_text(folder / _MANIFEST, json.dumps(content))


def is_scratch(folder: Path) -> bool:
    """Return whether a folder holds nothing but what preparing data writes, whole or not."""
    return folder.is_dir() and all(
        each.name.startswith(".") or each.name == "generated" or each.suffix in (".arrow", ".json", ".jsonl")
        for each in folder.iterdir()
    )


def leave_out_damaged(folder: Path, kind: str, index: type[AnyIndex], *, hidden_of: str) -> list[dict[str, str]]:
    """Decode every image of the sets of a run; what is damaged is left out from now on, and of what is hidden of one.

    Returns the set, id and reason of those that were not known before. Raises DataError where a set has no sound image.
    """
    found: list[dict[str, str]] = []
    sets = _manifest(folder, kind)
    for name in ("labeled", "unlabeled", "val", "test"):
        images = open_set(folder, kind, name, index)
        if images is None:
            continue
        reasons = list(in_threads(images.complaint_at, range(len(images))))
        bad = [row for row, reason in enumerate(reasons) if reason]
        if bad:
            known = set(range(len(images))) - set(images.sound_rows().tolist())
            if len(known | set(bad)) == len(images):
                raise DataError(f"{folder / name}.arrow: no image of the {name} set can be read: {reasons[bad[0]]}")
            found += [{"set": name, "id": images.id_at(row), "reason": reasons[row]} for row in bad if row not in known]
            for file in (name, *(["hidden"] if name == hidden_of and "hidden" in sets else [])):
                write_damaged(folder / f"{file}.arrow", sorted(known | set(bad)))
    return found


def open_set(folder: Path, kind: str, name: str, index: type[AnyIndex]) -> AnyIndex | None:
    """Open one set; None where there is none. Raises DataError where it is damaged, or of another kind."""
    return index.open(folder / f"{name}.arrow") if name in _manifest(folder, kind) else None


def open_sets(folder: Path, kind: str, index: type[AnyIndex], warnings: tuple[str, ...] = ()) -> PreparedSets[AnyIndex]:
    """Open what `write_sets` wrote. Raises DataError where it is missing, incomplete or damaged, or of another kind."""
    labeled = open_set(folder, kind, "labeled", index)
    if labeled is None:
        raise DataError(f"{folder / _MANIFEST}: damaged (no labelled set); prepare the data again")
    unlabeled, val, test = (open_set(folder, kind, name, index) for name in ("unlabeled", "val", "test"))
    return PreparedSets(folder, labeled.class_names, labeled, unlabeled, val, test, warnings)


def _manifest(folder: Path, kind: str) -> list[str]:
    file = folder / _MANIFEST
    try:
        content = json.loads(file.read_bytes())
        found, sets = content.get("kind"), list(content["sets"])
    except FileNotFoundError:
        raise DataError(f"{folder}: no prepared data there (no {_MANIFEST}); prepare the data first") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: damaged ({error}); prepare the data again") from None
    if found != kind:
        raise DataError(f"{folder}: holds data for {found or 'detection'}, not for {kind}; use another run folder")
    return sets
