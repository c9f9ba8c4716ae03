"""Who knows families and methods by name: nobody else does. A family is a folder of `raydet/families/`, named below.

Nothing of a family is imported before it is asked for, so that settings are read without PyTorch, and nothing of the
engine depends on a family.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from raydet.config.method import MethodSection
from raydet.config.run import RunConfig

if TYPE_CHECKING:
    from raydet.contract import Family, Method
    from raydet.labels.source import Annotator

NAMES = ("detection", "classification", "localization", "pretraining")


def run_configs() -> list[type[RunConfig]]:
    """Return the configuration class of each family: the `RunConfig` that its `config.py` ends with."""
    return [import_module(f"raydet.families.{name}.config").RUN_CONFIG for name in NAMES]


def config_classes() -> dict[str, type[RunConfig]]:
    """Return the configuration class of a run by the name of its method, family by family."""
    return {method.called(): run.with_method(method) for run in run_configs() for method in methods_of(run)}


def methods_of(run: type[RunConfig]) -> list[type[MethodSection]]:
    """Return the settings of every method of a family, by its configuration class."""
    found: list[type[MethodSection]] = import_module(run.__module__).METHODS
    return found


def family_named(name: str) -> Family[Any, Any, Any, Any]:
    """Return the family of that folder."""
    found: Family[Any, Any, Any, Any] = import_module(f"raydet.families.{name}.family").FAMILY
    return found


def family_of(config: RunConfig) -> Family[Any, Any, Any, Any]:
    """Return the family of a run."""
    return family_named(config.family)


def method_class(config: RunConfig) -> type[Method[Any, Any]]:
    """Return the method that a run names, unbuilt."""
    module, name = config.method.implementation.split(":")
    found: type[Method[Any, Any]] = getattr(import_module(module), name)
    return found


def build_method(config: RunConfig) -> Method[Any, Any]:
    """Return the method that a run names."""
    return method_class(config)(config)


def family_commands() -> list[ModuleType]:
    """Return the commands that families bring along, a module each: `add` declares it, `run` does it."""
    places = [f"raydet.families.{name}.commands" for name in NAMES]
    return [import_module(place) for place in places if find_spec(place) is not None]


class AnnotatorFactory:
    """Builds the annotator where it is needed; small enough to be sent to an actor."""

    def __init__(self, config: RunConfig, data_folder: str, device: str) -> None:
        self._method = config.method.name
        self._config_json = config.model_dump_json()
        self._data_folder = data_folder
        self._device = device

    def __call__(self) -> Annotator:
        """Open the data and build the teacher."""
        config = config_classes()[self._method].model_validate_json(self._config_json)
        return family_of(config).build_annotator(config, self._data_folder, self._device)
