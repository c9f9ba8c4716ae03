"""Write docs/configuration.md from the configuration classes: `python docs/make_configuration.py`."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from raydet.config.paths import PathText
from raydet.registry import methods_of, run_configs

PAGE = Path(__file__).with_name("configuration.md")
HEAD = """# Configuration

Made by `docs/make_configuration.py` from the classes in `raydet/config/` and each family's `config.py`; do not edit
by hand.

One YAML file describes a run. `raydet train FILE key.path=value ...` replaces single settings; values are YAML.
`raydet train FILE --print-config` shows everything, defaults included. Unknown keys are errors.
Method defaults are the papers' settings; the others are those of COCO training, with a smaller
backbone (docs/backbones.md).
"""
WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def page() -> str:
    """Return the whole page."""
    keys_of: dict[type[BaseModel], list[str]] = {}
    for family in run_configs():
        for model, key in _sections(family, ""):
            keys = keys_of.setdefault(model, [])
            if key not in keys:
                keys.append(key)
    return HEAD + "".join(_section(model, keys) for model, keys in keys_of.items())


def _sections(model: type[BaseModel], key: str) -> Iterator[tuple[type[BaseModel], str]]:
    """Yield a class and those below it, each with the dotted key where it belongs."""
    yield model, key
    for name, field in model.model_fields.items():
        children = methods_of(model) if key == "" and name == "method" else _models(field.annotation)
        for child in children:
            yield from _sections(child, f"{key}.{name}".lstrip("."))


def _section(model: type[BaseModel], keys: list[str]) -> str:
    key, *others = keys
    name = model.model_fields.get("name")
    variant = f" with `name: {name.default}`" if key == "method" and name else ""
    title = f"`{key}`{variant}" if key else "Top level"
    also = f" The same settings at {', '.join(f'`{other}`' for other in others)}." if others else ""
    rows = "".join(_row(f"{key}.{name}".lstrip("."), field) for name, field in model.model_fields.items())
    return f"\n## {title}\n\n{_about(model)}{also}\n\n| key | value | default | meaning |\n|---|---|---|---|\n{rows}"


def _about(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _row(key: str, field: FieldInfo) -> str:
    kind = _kind(field.annotation) + _bounds(field.metadata)
    kind = kind.replace("text", "path", 1) if _is_path(field) else kind
    models = [] if key == "method" else list(_models(field.annotation))
    meaning = field.description or (_about(models[0]) if len(models) == 1 else "One of the sections below.")
    if key.endswith(".name") and "`" in kind and "," not in kind:
        meaning = "Says which method this is."
    return f"| `{key}` | {kind} | {_default(field)} | {' '.join(meaning.split())} |\n"


def _is_path(field: FieldInfo) -> bool:
    """Whether a setting has the type of paths, alone or as an alternative to null."""
    parts = [field.metadata, *(typing.get_args(part)[1:] for part in typing.get_args(field.annotation))]
    return any(each is mark for part in parts for each in part for mark in typing.get_args(PathText)[1:])


def _kind(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        bounds = _bounds([each for part in arguments[1:] for each in getattr(part, "metadata", [part])])
        return _kind(arguments[0]) + bounds
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(part) for part in arguments))
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        number = "" if arguments[-1] is ... else f"{len(arguments)} x "
        return f"list of {number}({_kind(arguments[0])})"
    if origin is dict:
        return f"mapping of {_kind(arguments[0])} to {_kind(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return WORDS[annotation]


def _bounds(metadata: list[Any]) -> str:
    found = [
        f"{sign} {getattr(each, name)}" for each in metadata for name, sign in SIGNS.items() if hasattr(each, name)
    ]
    return f" {', '.join(found)}" if found else ""


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    return "see below" if isinstance(value, BaseModel) else f"`{json.dumps(value).strip(chr(34))}`"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models(part)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
