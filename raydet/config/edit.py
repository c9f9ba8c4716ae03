"""Setting values in the text of a config file, where everything else stays as somebody wrote it, byte for byte.

A library that reads and writes YAML anew keeps comments, but lays out the rest by its own rules (indents, quotes, the
spaces before a comment). Here the parser only says where a value stands; the text is cut there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import yaml

from raydet.config.load import compose_yaml
from raydet.errors import ConfigError

Value = float | Mapping[str, float]


def with_values(text: str, values: Mapping[str, Value], where: str) -> str:
    """Return a config file's text with numbers, or mappings of them, set by dotted key; a key that is missing is added
    to its section.

    A mapping is written in braces. Raises ConfigError that names `where` for text that is no YAML, and where a section
    is missing or holds something else than settings.
    """
    for key, value in values.items():
        text = _with_value(text, key, json.dumps(value, ensure_ascii=False), where)
    return text


def _with_value(text: str, key: str, value: str, where: str) -> str:
    *sections, name = key.split(".")
    node = compose_yaml(text, where)
    for depth, section in enumerate(("", *sections)):
        node = _entry(node, section) if section else node
        if not isinstance(node, yaml.MappingNode):
            path = ".".join(sections[:depth]) or "the file"
            raise ConfigError(f"{where}: {path} is no mapping of settings, so {key} cannot be set in it")
    assert isinstance(node, yaml.MappingNode)
    old = _entry(node, name)
    if old is None:
        return _with_entry(text, node, f"{name}: {value}")
    end = _end(old)
    if end is None or isinstance(old, yaml.MappingNode) != value.startswith("{"):
        raise ConfigError(f"{where}: {key} is not a single value, so it cannot be replaced by {value}")
    return text[: old.start_mark.index] + value + text[end:]


def _end(node: yaml.Node) -> int | None:
    """Return where a value ends: a single one, or a mapping of such; None for anything else.

    A mapping without braces ends with its last value: the parser says that it goes on up to what comes next.
    """
    if isinstance(node, yaml.ScalarNode):
        return int(node.end_mark.index)
    if not isinstance(node, yaml.MappingNode) or not all(isinstance(each, yaml.ScalarNode) for _, each in node.value):
        return None
    return int((node if node.flow_style or not node.value else node.value[-1][1]).end_mark.index)


def _entry(node: yaml.Node | None, name: str) -> yaml.Node | None:
    """Return the value of a key."""
    entries = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for key, value in entries if key.value == name), None)


def _with_entry(text: str, section: yaml.MappingNode, entry: str) -> str:
    """Add an entry: in braces behind the last one, else on a line of its own behind the first that is one line."""
    if section.flow_style:
        at = section.value[-1][1].end_mark.index if section.value else section.start_mark.index + 1
        return text[:at] + (f", {entry}" if section.value else entry) + text[at:]
    indent = " " * section.start_mark.column
    newline = "\r\n" if "\r\n" in text else "\n"
    for key, value in section.value:
        if isinstance(value, yaml.ScalarNode) and key.start_mark.line == value.end_mark.line:
            end = text.find("\n", value.end_mark.index)  # a comment behind the value stays with it
            if end < 0:
                return f"{text}{newline}{indent}{entry}{newline}"
            return f"{text[: end + 1]}{indent}{entry}{newline}{text[end + 1 :]}"
    at = section.start_mark.index
    return f"{text[:at]}{entry}{newline}{indent}{text[at:]}"
