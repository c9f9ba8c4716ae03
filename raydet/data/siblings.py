"""Which sets belong together: train, val and test of one data set, by the names that people give them.

Looks at names and at what `data.yaml` and the like say; reads no annotation. What is found is a guess that its user
sees in the configuration.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raydet.config.load import read_yaml
from raydet.data.kind import published_parts
from raydet.errors import ConfigError

WORDS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
ROLES = {"train": "labeled", "val": "val", "test": "test"}
_ANNOTATIONS = (".json", ".parquet")
_YAML_BYTES = 1 << 20

Given = dict[str, Any]


def sets_of(given: Mapping[str, Any]) -> dict[str, Given]:
    """Return the sets that a user's data set stands for: "labeled", and of "val", "test" what lies beside it.

    `given` is a set as under `data.labeled`. One that says which part it is (`subset`), and one whose name says
    nothing, stands for itself, as labelled set.
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
                found[other] = {**given, "path": _as_given(given, beside)}
                root = str(given.get("images", ""))
                if "images" in given and (other_root := Path(_swapped(root, word, name))).is_dir():
                    found[other]["images"] = str(other_root)
                break
    return found


def _in_folder(folder: Path, given: Mapping[str, Any]) -> dict[str, Given]:
    """Return files by their names, or parts of the folder, whichever it has."""
    yaml_files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if len(yaml_files) == 1:
        return _parts(given, _yaml_parts(yaml_files[0]))
    lists = folder / "ImageSets" / "Main"
    if lists.is_dir():
        return _parts(given, (file.stem for file in lists.glob("*.txt")))
    for place in (folder, folder / "annotations"):
        for suffix in _ANNOTATIONS:
            found = _files(sorted(place.glob(f"*{suffix}")), given)
            if "labeled" in found:
                return found
    for place in (folder / "images", folder):  # YOLO without a data.yaml; folders of class folders
        names = [entry.name for entry in place.iterdir() if entry.is_dir()] if place.is_dir() else []
        if (place == folder or (folder / "labels").is_dir()) and _role_of_all(names):
            return _parts(given, names)
    return _parts(given, published_parts(folder))


def _files(files: Iterable[Path], given: Mapping[str, Any]) -> dict[str, Given]:
    found: dict[str, Given] = {}
    for file in files:
        role, _ = _role(file.stem)
        if role and ROLES[role] not in found:
            found[ROLES[role]] = {**given, "path": _as_given(given, file)}
    return found


def _parts(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Given]:
    """Return one set per part of the same path; nothing where no part is for training."""
    names = set(names)
    found = {}
    for role, words in WORDS.items():
        name = next((word for word in words if word in names), None)
        if name is not None:
            found[ROLES[role]] = {**given, "subset": name}
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
    parts = re.findall(r"[a-z]+", stem.lower())
    said = [(role, word) for role, words in WORDS.items() for word in words if word in parts]
    return said[0] if len({role for role, _ in said}) == 1 else ("", "")


def _role_of_all(names: list[str]) -> bool:
    """Return whether folders are parts, and not classes."""
    known = {word for words in WORDS.values() for word in words}
    return len(names) > 1 and known.issuperset(names)


def _swapped(text: str, word: str, other: str) -> str:
    """Replace the last `word`, whatever its case."""
    start = text.lower().rfind(word)
    return text if start < 0 else text[:start] + other + text[start + len(word) :]


def _as_given(given: Mapping[str, Any], file: Path) -> str:
    """Return a path as its user would write it: with the `~` of the one that was given."""
    start = str(given["path"])
    home = str(Path.home())
    return f"~{str(file)[len(home) :]}" if start.startswith("~") and str(file).startswith(home) else str(file)
