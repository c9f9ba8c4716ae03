"""A configuration as YAML in which every value says why."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_WIDTH = 110
_BARE = re.compile(
    r"(?:\.{0,2}/)?[A-Za-z_][A-Za-z0-9_./-]*"
)  # no number, nothing that YAML would read as something else
_WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")  # values of YAML 1.1, in any case


@dataclass(frozen=True, slots=True)
class Setting:
    """A dotted key, its plain value, and the reason; without one it is said to be a default or obvious."""

    key: str
    value: Any
    why: str = ""


def render(head: Sequence[str], settings: Sequence[Setting], commands: Sequence[str] = ()) -> str:
    """Return the YAML text: `head` and `commands` as comments, then sections in the order in which they come up first.

    A command keeps to one line, whatever its length, so that it can be copied.
    """
    tree: dict[str, Any] = {}
    for setting in settings:
        *parents, last = setting.key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if isinstance(node, Setting):
                raise ValueError(f"{setting.key}: {node.key} is a value and cannot be a section too")
        if last in node:
            raise ValueError(f"{setting.key} is set twice")
        node[last] = setting
    lines = [line for text in head for line in _comment(text, "")]
    lines += [f"#   {_plain(command)}" for command in commands]
    return "\n".join([*lines, *_lines(tree, "")]) + "\n"


def _lines(node: dict[str, Any], indent: str) -> list[str]:
    lines: list[str] = []
    for name, value in node.items():
        if isinstance(value, dict):
            lines += ["", f"{name}:"] if not indent else [f"{indent}{name}:"]
            lines += _lines(value, indent + "  ")
            continue
        text, why = f"{indent}{name}: {_flow(value.value)}", _plain(value.why)
        if why and len(text) + len(why) + 4 <= _WIDTH:
            lines.append(f"{text}  # {why}")
        else:
            lines += [*_comment(value.why, indent), text]
    return lines


def _comment(text: str, indent: str) -> list[str]:
    mark = f"{indent}# "
    return textwrap.wrap(  # names of files and commands stay whole
        _plain(text),
        _WIDTH,
        initial_indent=mark,
        subsequent_indent=mark,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _plain(text: str) -> str:
    """Return a comment that ends where it should: names of files may hold line breaks and worse."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _flow(value: Any) -> str:
    """Return a value in one line: JSON, which is YAML, with bare words where these can mean nothing else."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(name)}: {_flow(each)}" for name, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_flow(each) for each in value) + "]"
    if isinstance(value, str):
        is_bare = _BARE.fullmatch(value) and value.lower() not in _WORDS
        return value if is_bare else _quoted(value)
    return json.dumps(value)


def _quoted(text: str) -> str:
    """Return a text in double quotes; what cannot be seen is escaped, and what can be is not, whatever its plane."""
    letters = (
        letter if letter.isprintable() or letter.isascii() else f"\\U{ord(letter):08x}"
        for letter in json.dumps(text, ensure_ascii=False).replace("\x7f", "\\x7f")
    )
    return "".join(letters)
