"""Which sets belong together: train, val and test of one data set, by the names that people give them.

Looks at names and at what `data.yaml` and the like say; reads no annotation. What is found is a guess that its user
sees in the configuration.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from raydet.config.load import read_yaml
from raydet.data.kind import published_parts
from raydet.data.yaml_kind import data_set_yamls
from raydet.errors import ConfigError

WORDS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
ROLES = {"train": "labeled", "val": "val", "test": "test"}
_ANNOTATIONS = (".json", ".parquet")
_NO_BOXES = frozenset({"captions", "stuff", "panoptic", "info"})  # of COCO's published files, those without objects
_BOXES = "instances"
_YAML_BYTES = 1 << 20

Given = dict[str, Any]


def sets_of(given: Mapping[str, Any]) -> dict[str, Given]:
    """Return the sets that a user's data set stands for: "labeled", and of "val", "test" what lies beside it.

    `given` is a set as under `data.labeled`. One that says which part it is (`subset`), and one whose name says
    nothing, stands for itself, as labelled set. Raises DataError where its folder cannot be listed.
    """
    if "subset" in given or glob.has_magic(str(given["path"])):
        return {"labeled": dict(given)}
    path = Path(str(given["path"])).expanduser()
    found = _in_folder(path, given) if path.is_dir() else _beside(path, given)
    return found if "labeled" in found else {"labeled": dict(given), **found}


def _beside(file: Path, given: Mapping[str, Any]) -> dict[str, Given]:
    """Return the files that have `val` or `test` where this one's name has `train`."""
    if file.suffix.lower() in (".yaml", ".yml"):
        return _parts(given, _yaml_parts(file))
    role, word = _role(file.stem)
    if role != "train":
        return {}
    found = {"labeled": dict(given)}
    for other in ("val", "test"):
        for name in WORDS[other]:
            beside = file.with_name(_swapped(file.stem, word, name) + file.suffix)
            if beside.is_file():
                if (sibling := _sibling(given, other, name, path=_as_given(given, beside))) is not None:
                    found[other] = sibling
                break
    return found


def _in_folder(folder: Path, given: Mapping[str, Any]) -> dict[str, Given]:
    """Return files by their names, or parts of the folder, whichever it has."""
    descriptions = data_set_yamls(folder)
    if len(descriptions) == 1:
        return _parts(given, _yaml_parts(descriptions[0]))
    lists = folder / "ImageSets" / "Main"
    if lists.is_dir():
        return _parts(given, (file.stem for file in lists.glob("*.txt")))
    for place in (folder, folder / "annotations"):
        for suffix in _ANNOTATIONS:
            files = _files(sorted(place.glob(f"*{suffix}")))
            if "train" in files:
                return _one_each(files, given)
    for place in (folder / "images", folder):  # YOLO without a data.yaml; folders of class folders
        names = [entry.name for entry in place.iterdir() if entry.is_dir()] if place.is_dir() else []
        if (place == folder or (folder / "labels").is_dir()) and _role_of_all(names):
            # A COCO file in a folder for each part has its pictures in `images`; elsewhere that only allows symlinks.
            return _parts(given, names, own_images=place == folder)
    return _parts(given, published_parts(folder))


def _files(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Return the files of each role, without those of COCO that are known to have no boxes of objects."""
    found: dict[str, list[Path]] = {}
    for file in files:
        role, _ = _role(file.stem)
        # macOS writes ._train.json beside train.json.
        if role and not file.name.startswith(".") and _NO_BOXES.isdisjoint(_words(file.stem)):
            found.setdefault(role, []).append(file)
    return {role: [file for file in those if _BOXES in _words(file.stem)] or those for role, those in found.items()}


def _one_each(files: Mapping[str, list[Path]], given: Mapping[str, Any]) -> dict[str, Given]:
    """Return a set per role; nothing where a role has several files: which one is meant, the reader then asks."""
    if any(len(those) > 1 for those in files.values()):
        return {}
    found = {
        ROLES[role]: _sibling(given, role, _role(file.stem)[1], path=_as_given(given, file))
        for role, (file,) in files.items()
    }
    return {name: one for name, one in found.items() if one is not None}


def _sibling(given: Mapping[str, Any], role: str, word: str, **own: str) -> Given | None:
    """Return a set like `given` for another part, which `word` names; `own` is what differs.

    Where the image root names the training part, the other part has its own root. None where that is not there: boxes
    must not lie on the pictures of another part.
    """
    found = {**given, **own}
    if role == "train" or "images" not in given:
        return found
    parts = Path(str(given["images"])).parts
    for place in range(len(parts) - 1, len(parts) - 1 - _own_parts(given), -1):
        said, there = _role(parts[place])
        if said == "train":
            for name in dict.fromkeys((word, *WORDS[role])):
                root = Path(*parts[:place], _swapped(parts[place], there, name), *parts[place + 1 :])
                if root.expanduser().is_dir():
                    return {**found, "images": str(root)}
            return None
    return found


def _own_parts(given: Mapping[str, Any]) -> int:
    """Return how many of the last parts of the image root can name a part of the data set: the last one, and those
    that the annotations do not share. A data set below ~/training is no training part."""
    path, root = (Path(os.path.abspath(os.path.expanduser(str(given[key])))).parts for key in ("path", "images"))
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(path, root, strict=False)))
    return min(max(1, len(root) - shared), len(Path(str(given["images"])).parts))


def _parts(given: Mapping[str, Any], names: Iterable[str], *, own_images: bool = False) -> dict[str, Given]:
    """Return one set per part of the same path; nothing where no part is for training.

    `own_images`: an image root that names a part is of that part alone.
    """
    names = set(names)
    found: dict[str, Given] = {}
    for role, words in WORDS.items():
        name = next((word for word in words if word in names), None)
        if name is None:
            continue
        one = _sibling(given, role, name, subset=name) if own_images else {**given, "subset": name}
        if one is not None:
            found[ROLES[role]] = one
    return found if "labeled" in found else {}


def _yaml_parts(file: Path) -> list[str]:
    """Return the parts that a YOLO data.yaml names; what is wrong with it, its reader says."""
    try:
        if file.stat().st_size > _YAML_BYTES:
            return []
        content = read_yaml(file.read_text(encoding="utf-8-sig"), str(file))
    except (OSError, UnicodeDecodeError, ConfigError, RecursionError):
        return []
    return [role for role in WORDS if isinstance(content, dict) and content.get(role)]


def _role(stem: str) -> tuple[str, str]:
    """Return what a name such as `instances_train2017` says, and the word that says it; empty where none or several."""
    parts = _words(stem)
    said = [(role, word) for role, words in WORDS.items() for word in words if word in parts]
    return said[0] if len({role for role, _ in said}) == 1 else ("", "")


def _words(stem: str) -> list[str]:
    return re.findall(r"[a-z]+", stem.lower())


def _role_of_all(names: list[str]) -> bool:
    """Return whether folders are parts, and not classes."""
    known = {word for words in WORDS.values() for word in words}
    return len(names) > 1 and known.issuperset(names)


def _swapped(text: str, word: str, other: str) -> str:
    """Replace the last whole `word`, whatever its case."""
    whole = list(re.finditer(rf"(?<![a-z]){word}(?![a-z])", text, re.IGNORECASE))
    return text[: whole[-1].start()] + other + text[whole[-1].end() :] if whole else text


def _as_given(given: Mapping[str, Any], file: Path) -> str:
    """Return a path as its user would write it: with the `~` of the one that was given."""
    start = str(given["path"])
    home = str(Path.home())
    return f"~{str(file)[len(home) :]}" if start.startswith("~") and str(file).startswith(home) else str(file)
