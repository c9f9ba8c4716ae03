"""One path from text to a typed config: YAML -> dict -> dotted overrides -> validation -> frozen `RunConfig`.

The same dotted string names a setting in YAML, on the command line (`method.score_threshold=0.8`) and in a search.
"""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from raydet import __version__
from raydet.config.families import FAMILIES, family_of
from raydet.config.run import RunConfig
from raydet.config.version import VERSION_KEY, is_newer, take_version
from raydet.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2: `1e-4` is a number, `no` is a word; aliases are refused."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise ConfigError(f"line {mark.line + 1}: YAML aliases (*name) are not allowed; write the value out")
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in entries if tag.rsplit(":", 1)[-1] in ("null", "merge")]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def read_yaml(text: str, where: str) -> Any:
    """Parse YAML text safely. Raises ConfigError that names `where` and the line."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader subclass
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from None


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `key.path=value` overrides and validate. Raises ConfigError naming file and key."""
    file = Path(path)
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as UTF-8 text: {error}") from None
    tree = read_yaml(text, str(file))
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
    merged = json.loads(_to_json(tree, where))
    written_by = take_version(merged, where)
    for key, value in overrides.items():
        _set(merged, key, value)
    family = family_of(merged, where)
    try:
        # Strict validation in JSON mode: "0.7" is no number and 1 is no boolean, but a list may be a tuple.
        return family.model_validate_json(_to_json(merged, where), strict=True)
    except ValidationError as error:
        problems = [_explain(where, problem, merged) for problem in error.errors()]
        if is_newer(written_by):
            problems.insert(0, f"{where}: written by raydet {written_by}, this is {__version__}: update raydet")
        raise ConfigError("\n".join(problems)) from None


def dump(config: RunConfig) -> str:
    """Return the resolved config as YAML that `load` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def dump_file(config: RunConfig) -> str:
    """Return the text of a config file: `dump`, and which raydet wrote it."""
    return f"{VERSION_KEY}: {__version__}\n{dump(config)}"


def _to_json(tree: Any, where: str) -> str:
    try:
        return json.dumps(tree, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: a value is not plain data (number, text, list, mapping): {error}") from None


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if isinstance(child, str) and parent in ("labeled", "unlabeled", "val", "test"):
            child = node[parent] = {"path": child}  # the short form of a data set
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"override {key}: {parent} is {child!r}, not a section")
        node = child
    node[last] = value


def known_keys() -> list[str]:
    """Return every dotted key of the configuration, of whatever family."""
    return list(dict.fromkeys(key for family in FAMILIES for key in _walk(family, "")))


def _walk(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for child in _models(field.annotation):
            yield from _walk(child, f"{prefix}{name}.")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from _models(part)


def _explain(where: str, problem: Any, tree: Mapping[str, Any]) -> str:
    path = [str(part) for part in problem["loc"]]
    name = tree.get("method", {}).get("name") if isinstance(tree.get("method"), dict) else None
    if len(path) > 1 and path[0] == "method" and path[1] == name:
        del path[1]  # pydantic puts the union's tag into the path
    key = ".".join(path) or "config"
    kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.6) or difflib.get_close_matches(
            path[-1], [k.rsplit(".", 1)[-1] for k in known_keys()], n=1, cutoff=0.7
        )
        hint = f"; did you mean {near[0]}?" if near else "; `raydet train --print-config` shows all keys"
        return f"{where}: {key}: unknown key{hint}"
    if kind == "missing":
        return f"{where}: {key}: required, but not given"
    if key == "method.ema_keep_rate" and problem.get("input") == 1:
        message = "must be in [0, 1); 1.0 would freeze the teacher forever"
    if kind == "value_error":
        return f"{where}: {message}" if key == "config" else f"{where}: {key}: {message}"
    return f"{where}: {key}={json.dumps(problem.get('input'), default=str)}: {message}"
