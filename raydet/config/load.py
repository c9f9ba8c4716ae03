"""Text and mappings become typed settings: safe YAML, and one section by itself. A whole run: `raydet/settings.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from raydet.config.base import Section
from raydet.config.explain import explain_section
from raydet.errors import ConfigError

AnySection = TypeVar("AnySection", bound=Section)


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2: `1e-4` is a number, `no` is a word; aliases are refused, and keys that
    stand twice in a mapping, of which the last one would count."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise ConfigError(f"line {mark.line + 1}: YAML aliases (*name) are not allowed; write the value out")
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    first = lines[key.value]
                    raise ConfigError(
                        f"line {line}: {key.value!r} is given again, after line {first}; remove one of them"
                    )
                lines[key.value] = line
        return node


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


def compose_yaml(text: str, where: str) -> yaml.Node | None:
    """Return what stands where in YAML text, for an editor. Raises ConfigError as `read_yaml` does."""
    try:
        return yaml.compose(text, Loader=_Loader)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from None


def resolve_section(model: type[AnySection], tree: Mapping[str, Any], *, where: str) -> AnySection:
    """Validate one section by itself, such as one data set. Raises ConfigError, one line per problem."""
    try:
        return model.model_validate_json(to_json(tree, where), strict=True)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}: {line}" for line in explain_section(error, model))) from None


def to_json(tree: Any, where: str) -> str:
    """Return plain data as JSON. Raises ConfigError that names `where` for anything else."""
    try:
        return json.dumps(tree, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: a value is not plain data (number, text, list, mapping): {error}") from None
