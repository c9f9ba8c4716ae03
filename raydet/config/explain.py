"""What is said about settings that are refused: the key, what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a section and of those below it."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for child in _models(field.annotation):
            yield from keys_of(child, f"{prefix}{name}.")


def explain_section(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line per problem of a section by itself, such as one data set."""
    return [explain(key_of(problem), problem, list(keys_of(model))) for problem in error.errors()]


def key_of(problem: Mapping[str, Any]) -> str:
    """Return the dotted key that a problem is about."""
    return ".".join(str(part) for part in problem["loc"])


def explain(key: str, problem: Mapping[str, Any], keys: Collection[str]) -> str:
    """Return the line about one problem; `keys` are those that could be meant."""
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
