"""What a YAML file is, by what stands in it: a data set's description, a configuration of raydet, or something else."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from raydet.config.load import read_yaml
from raydet.data.folder import listed
from raydet.errors import ConfigError

YamlKind = Literal["data set", "config", "other"]
_MAX_BYTES = 1 << 20
_USUAL = ("data", "dataset")  # what tools call the description of a data set
_SECTIONS = frozenset({"data", "method", "run"})


def yaml_kind(file: Path) -> YamlKind:
    """Judge a file. One that is broken counts as what its name says, so that its reader can say what is wrong."""
    by_name: YamlKind = "data set" if file.stem in _USUAL else "other"
    try:
        if file.stat().st_size > _MAX_BYTES:
            return by_name
        content = read_yaml(file.read_bytes().decode("utf-8-sig"), str(file))
    except (OSError, ConfigError, UnicodeDecodeError, RecursionError):
        return by_name
    if not isinstance(content, dict):
        return by_name
    if any(isinstance(content.get(key), dict) for key in _SECTIONS):
        return "config"
    return "data set" if "names" in content else by_name


def is_yaml(file: Path) -> bool:
    """Return whether a path ends as a YAML file does."""
    return file.suffix.lower() in (".yaml", ".yml")


def data_set_yamls(folder: Path) -> list[Path]:
    """Return the files directly in a folder that describe a data set; where one has the usual name, only that."""
    files = [Path(entry.path) for entry in listed(folder) if is_yaml(Path(entry.name)) and entry.is_file()]
    found = [file for file in files if yaml_kind(file) == "data set"]
    usual = [file for file in found if file.stem in _USUAL]
    return usual if len(usual) == 1 else found
