"""The families of methods: what a run trains follows from the name of its method."""

from __future__ import annotations

import difflib
import json
import typing
from collections.abc import Mapping
from typing import Any

from raydet.config.classification import ClassificationConfig
from raydet.config.classification_methods import ClassificationMethodConfig
from raydet.config.detection import DetectionConfig
from raydet.config.detection_methods import DetectionMethodConfig
from raydet.config.run import RunConfig
from raydet.errors import ConfigError


def _names(union: Any) -> list[str]:
    """Return the method names of a union of config classes."""
    return [each.model_fields["name"].default for each in typing.get_args(typing.get_args(union)[0])]


FAMILIES: dict[type[RunConfig], list[str]] = {
    DetectionConfig: _names(DetectionMethodConfig),
    ClassificationConfig: _names(ClassificationMethodConfig),
}


def family_of(tree: Mapping[str, Any], where: str) -> type[RunConfig]:
    """Return the configuration class of a run from its unchecked settings. Raises ConfigError for an unknown method."""
    every = [name for names in FAMILIES.values() for name in names]
    method = tree.get("method")
    name = method.get("name") if isinstance(method, Mapping) else None
    for family, names in FAMILIES.items():
        if name in names:
            return family
    if name is None:
        raise ConfigError(f"{where}: method.name: required, but not given; one of {', '.join(every)}")
    near = difflib.get_close_matches(str(name), every, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(f"{where}: method.name={name!r}: expected one of {', '.join(every)}{hint}")


def parse(text: str) -> RunConfig:
    """Return the configuration that `RunConfig.model_dump_json` wrote: how one process hands it to another."""
    return family_of(json.loads(text), "configuration").model_validate_json(text)
