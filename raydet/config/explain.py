"""What is said about settings that are refused: the key, what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from raydet.config.families import FAMILIES


def known_keys() -> list[str]:
    """Return every dotted key of the configuration, of whatever method."""
    return list(dict.fromkeys(key for keys in keys_of_methods().values() for key in keys))


def keys_of_methods() -> dict[str, list[str]]:
    """Return the dotted keys of a run by the name of its method."""
    found = {}
    for family in FAMILIES:
        shared = [key for key in keys_of(family) if not key.startswith("method.")]
        for method in _models(family.model_fields["method"].annotation):
            found[str(method.model_fields["name"].default)] = [*shared, *keys_of(method, "method.")]
    return found


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a section and of those below it."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for child in _models(field.annotation):
            yield from keys_of(child, f"{prefix}{name}.")


def explain_run(error: ValidationError, method: str) -> list[str]:
    """Return one line per problem of a whole run; keys that belong to other methods share one."""
    keys = keys_of_methods()
    lines: list[str] = []
    foreign: dict[str, list[str]] = {}
    for problem in error.errors():
        key = _key_of(problem, method)
        owners = [name for name, own in keys.items() if key in own]
        if problem["type"] == "extra_forbidden" and owners:
            foreign.setdefault(_whose(key, owners, method), []).append(key)
        else:
            lines.append(_line(key, problem, keys[method]))
    several = ((f"{', '.join(own)}: unknown key{'s' * (len(own) > 1)}: {whose}") for whose, own in foreign.items())
    return [*several, *lines]


def explain_section(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line per problem of a section by itself, such as one data set."""
    return [_line(_key_of(problem), problem, list(keys_of(model))) for problem in error.errors()]


def _key_of(problem: Mapping[str, Any], method: str = "") -> str:
    path = [str(part) for part in problem["loc"]]
    if len(path) > 1 and path[0] == "method" and path[1] == method:
        del path[1]  # pydantic puts the union's tag into the path
    return ".".join(path)


def _whose(key: str, owners: list[str], method: str) -> str:
    """Say whose setting a key is that `method` does not have."""
    if key.startswith("method."):
        return f"for method.name={' or '.join(owners)}, not for {method}; remove what is not meant"
    (mine,) = (family.trains for family, names in FAMILIES.items() if method in names)
    (theirs,) = {family.trains for family, names in FAMILIES.items() if set(names) & set(owners)}
    return f"for {theirs}s, and method.name={method} trains a {mine}; remove what is not meant"


def _line(key: str, problem: Mapping[str, Any], keys: Collection[str]) -> str:
    kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return f"{key}: unknown key{_hint(key, keys)}"
    if kind == "missing":
        return f"{key}: required, but not given"
    if key == "method.ema_keep_rate" and problem.get("input") == 1:
        message = "must be in [0, 1); 1.0 would freeze the teacher forever"
    if kind == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}={json.dumps(problem.get('input'), default=str)}: {message}"


def _hint(key: str, keys: Collection[str]) -> str:
    last = key.rsplit(".", 1)[-1]
    by_last = {each.rsplit(".", 1)[-1]: each for each in keys}
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    near = near or [by_last[each] for each in difflib.get_close_matches(last, by_last, n=1, cutoff=0.7)]
    if near:
        return f"; did you mean {near[0]}?"
    is_run = "method.name" in keys
    return "; `raydet train --print-config` shows all keys" if is_run else f"; there are {', '.join(keys)}"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from _models(part)
