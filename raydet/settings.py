"""One path from text to a typed config: YAML -> dict -> dotted overrides -> validation -> frozen `RunConfig`.

The same dotted string names a setting in YAML, on the command line (`method.score_threshold=0.8`) and in a search.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from raydet import __version__
from raydet.config.explain import explain, key_of, keys_of
from raydet.config.load import read_yaml, to_json
from raydet.config.run import RunConfig
from raydet.config.version import VERSION_KEY, is_newer, take_version
from raydet.errors import ConfigError
from raydet.registry import config_classes


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `key.path=value` overrides and validate. Raises ConfigError naming file and key."""
    file = Path(path)
    if file.is_dir():
        own = f": {file / 'config.yaml'} is there" if (file / "config.yaml").is_file() else ""
        raise ConfigError(f"{file}: is a folder; give a config file (.yaml){own}")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as UTF-8 text: {error}") from None
    tree = read_yaml(text, str(file))
    if tree is None:
        raise ConfigError(
            f"{file}: is empty; a config has at least the sections run, data and method; raydet init DATASET writes one"
        )
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: expected a mapping of sections (run, data, method, ...), got {type(tree).__name__}")
    return resolve(tree, dict(parse_override(text) for text in overrides), where=str(file))


def parse_override(text: str) -> tuple[str, Any]:
    """Split `key.path=value`; the value is YAML, so `3`, `true`, `[1, 2]` and `null` mean what they look like."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {text!r}: expected key.path=value, e.g. method.score_threshold=0.8")
    return key.strip(), read_yaml(value, f"override {key.strip()}")


def resolve(tree: Mapping[str, Any], overrides: Mapping[str, Any], *, where: str = "config") -> RunConfig:
    """Merge dotted overrides into a nested mapping and validate it. Raises ConfigError, one line per problem."""
    merged = json.loads(to_json(tree, where))
    written_by = take_version(merged, where)
    for key, value in overrides.items():
        _set(merged, key, deepcopy(value))  # a later override may reach into it
    text, model = to_json(merged, where), config_classes().get(str(_method_of(merged)))
    if model is not None:
        try:
            # Strict validation in JSON mode: "0.7" is no number and 1 is no boolean, but a list may be a tuple.
            return model.model_validate_json(text, strict=True)
        except ValidationError:
            pass  # told below, with what else there is
    problems = [f"{where}: {line}" for line in _mistakes(merged)]
    if is_newer(written_by):
        problems.insert(0, f"{where}: written by raydet {written_by}, this is {__version__}: update raydet")
    raise ConfigError("\n".join(problems))


def class_of(tree: Mapping[str, Any], where: str) -> type[RunConfig]:
    """Return the configuration class of a run from its unchecked settings. Raises ConfigError for an unknown method."""
    name = _method_of(tree)
    if (model := config_classes().get(str(name))) is None:
        raise ConfigError(f"{where}: {_no_such_method(name)}")
    return model


def _method_of(tree: Mapping[str, Any]) -> Any:
    """Return the method's name as it is given, None where there is none."""
    method = tree.get("method")
    return method.get("name") if isinstance(method, Mapping) else None


def _no_such_method(name: Any) -> str:
    known = config_classes()
    if name is None:
        return f"method.name: required, but not given; one of {', '.join(known)}"
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"method.name={name!r}: expected one of {', '.join(known)}{hint}"


def parse(text: str) -> RunConfig:
    """Return the configuration that `RunConfig.model_dump_json` wrote: how one process hands it to another."""
    return class_of(json.loads(text), "configuration").model_validate_json(text)


def dump(config: RunConfig) -> str:
    """Return the resolved config as YAML that `load` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def dump_file(config: RunConfig) -> str:
    """Return the text of a config file: `dump`, and which raydet wrote it."""
    return f"{VERSION_KEY}: {__version__}\n{dump(config)}"


def keys_of_methods() -> dict[str, list[str]]:
    """Return the dotted keys of a run by the name of its method."""
    return {name: list(keys_of(model)) for name, model in config_classes().items()}


def _mistakes(tree: Mapping[str, Any]) -> list[str]:
    """Return one line per problem of a whole run.

    What a misspelt section, or a misspelt name of a method, is likely to mean is taken for it, so that it hides nothing
    else. Without a method there are the problems that a run would have by any method.
    """
    tree, lines = _with_sections_found(tree)
    known, name = config_classes(), _method_of(tree)
    if str(name) in known:
        return [*lines, *_explained(tree, str(name))]
    lines.append(_no_such_method(name))
    method = tree.get("method")
    rest = method if isinstance(method, Mapping) else {}
    each = [
        _explained({**tree, "method": {**rest, "name": one}}, one)
        for one in difflib.get_close_matches(str(name), known, n=1) or known
    ]
    return [*lines, *(line for line in each[0] if all(line in other for other in each))]


def _with_sections_found(tree: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings with misspelt sections under the names that they are likely to mean, and a line for each."""
    keys = {key for own in keys_of_methods().values() for key in own}
    sections, parts = sorted(key for key in keys if "." not in key), {key.rsplit(".", 1)[-1] for key in keys}
    found, lines = dict(tree), []
    for key in tree:
        free = [section for section in sections if section not in found]
        if key not in parts and (near := difflib.get_close_matches(key, free, n=1)):
            found[near[0]] = found.pop(key)
            lines.append(f"{key}: unknown key; did you mean {near[0]}?")
    return found, lines


def _explained(tree: Mapping[str, Any], method: str) -> list[str]:
    """Return one line per problem of a run by a method; keys that belong to other methods share one."""
    try:
        config_classes()[method].model_validate_json(to_json(tree, ""), strict=True)
        return []
    except ValidationError as error:
        problems = error.errors()
    keys = keys_of_methods()
    lines: list[str] = []
    foreign: dict[str, list[str]] = {}
    for problem in problems:
        key = key_of(problem)
        owners = [name for name, own in keys.items() if key in own]
        if problem["type"] == "extra_forbidden" and owners:
            foreign.setdefault(_whose(key, owners, method), []).append(key)
        else:
            lines.append(explain(key, problem, keys[method]))
    several = ((f"{', '.join(own)}: unknown key{'s' * (len(own) > 1)}: {whose}") for whose, own in foreign.items())
    return [*several, *lines]


def _whose(key: str, owners: list[str], method: str) -> str:
    """Say whose setting a key is that `method` does not have."""
    if key.startswith("method."):
        return f"for method.name={' or '.join(owners)}, not for {method}; remove what is not meant"
    known = config_classes()
    theirs = " or ".join(dict.fromkeys(f"{known[name].trains}s" for name in owners))
    return f"for {theirs}, and method.name={method} trains a {known[method].trains}; remove what is not meant"


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if isinstance(child, str) and parent in ("labeled", "unlabeled", "images", "val", "test"):
            child = node[parent] = {"path": child}  # the short form of a data set
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"override {key}: {parent} is {child!r}, not a section")
        node = child
    node[last] = value
