"""One path from text to a typed config: YAML -> dict -> dotted overrides -> validation -> frozen `RunConfig`.

The same dotted string names a setting in YAML, on the command line (`method.score_threshold=0.8`) and in a search.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from raydet import __version__
from raydet.config.base import Section
from raydet.config.explain import explain_run, explain_section
from raydet.config.families import family_of
from raydet.config.run import RunConfig
from raydet.config.version import VERSION_KEY, is_newer, take_version
from raydet.errors import ConfigError

AnySection = TypeVar("AnySection", bound=Section)


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
        problems = [f"{where}: {line}" for line in explain_run(error, merged["method"]["name"])]
        if is_newer(written_by):
            problems.insert(0, f"{where}: written by raydet {written_by}, this is {__version__}: update raydet")
        raise ConfigError("\n".join(problems)) from None


def resolve_section(model: type[AnySection], tree: Mapping[str, Any], *, where: str) -> AnySection:
    """Validate one section by itself, such as one data set. Raises ConfigError, one line per problem."""
    try:
        return model.model_validate_json(_to_json(tree, where), strict=True)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}: {line}" for line in explain_section(error, model))) from None


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
