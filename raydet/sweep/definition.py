"""What a search asks: sweep.json, as far as its results are concerned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydet.config.run import RunConfig
from raydet.errors import ConfigError
from raydet.settings import resolve
from raydet.sweep.folder import FORMAT


@dataclass(frozen=True, slots=True)
class PublishedCurve:
    """A paper's figures for the points of a search."""

    source: str
    figure: str  # what was measured there
    points: tuple[tuple[dict[str, Any], float], ...]  # values of the swept keys, figure in percent as papers print it

    def at(self, values: Mapping[str, Any]) -> float | None:
        """Return the figure of a point in percent, None where the paper has none."""
        for known, figure in self.points:
            if all(values.get(key) == value for key, value in known.items()):
                return figure
        return None


@dataclass(frozen=True, slots=True, eq=False)
class SweepDefinition:
    """What a search asks: sweep.json, as far as its results are concerned."""

    folder: Path
    name: str
    text: str
    metric: str
    mode: str  # max or min
    keys: tuple[str, ...]
    seeds: tuple[int, ...]
    search: str  # random or optuna
    scheduler: str
    settings: dict[str, Any]  # dotted key -> value that all points share
    samples: int  # draws from random domains, or suggestions of a searcher
    file_samples: int | None  # what the space file says, which --samples replaces; None: up to 0.1 it was not kept
    space: dict[str, str]  # swept key or variant's name -> what it may be, as text
    published: PublishedCurve | None
    curves: dict[str, str]  # metric of a step -> what it is, for the report
    base: RunConfig

    @property
    def sign(self) -> int:
        """Return 1 where a higher figure is better, -1 where a lower one is."""
        return 1 if self.mode == "max" else -1

    @property
    def is_adaptive(self) -> bool:
        """Whether a searcher chooses the points while the search goes on."""
        return self.search == "optuna"

    def short_names(self) -> dict[str, str]:
        """Return key -> its last part, the whole key where two end alike."""
        last = [key.rsplit(".", 1)[-1] for key in self.keys]
        return {key: short if last.count(short) == 1 else key for key, short in zip(self.keys, last, strict=True)}

    def named(self, values: Mapping[str, Any]) -> str:
        """Return the values of a point, e.g. `unsup_reg_weight=0.5, seed=1`."""
        return ", ".join(f"{name}={value_text(values.get(key))}" for key, name in self.short_names().items())


def read_definition(folder: Path) -> SweepDefinition:
    """Read sweep.json. Raises ConfigError where there is none or it is damaged."""
    file = folder / "sweep.json"
    try:
        return parse_definition(json.loads(file.read_text(encoding="utf-8")), folder)
    except FileNotFoundError:
        raise ConfigError(f"{folder}: no sweep.json there; give the folder of a search") from None
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: not the description of a search: {type(error).__name__}: {error}") from None


def parse_definition(tree: Mapping[str, Any], folder: Path) -> SweepDefinition:
    """Return what sweep.json, parsed, says. Raises what wrong data raises."""
    if tree["format"] != FORMAT:
        raise ConfigError(f"{folder}: a search of format {tree['format']!r}, this raydet reads {FORMAT}")
    said = tree["published"]
    published = said and PublishedCurve(
        str(said["source"]),
        str(said["metric"]),
        # Up to version 0.1 a point's figure was called AP.
        tuple((dict(each["values"]), float(each["figure" if "figure" in each else "AP"])) for each in said["points"]),
    )
    return SweepDefinition(
        folder=folder,
        name=str(tree["name"]),
        text=str(tree["question"]),
        metric=str(tree["metric"]),
        mode=str(tree["mode"]),
        keys=tuple(map(str, tree["keys"])),
        seeds=tuple(map(int, tree["seeds"])),
        search=str(tree["search"]),
        scheduler=str(tree["scheduler"]),
        settings=dict(tree["settings"]),
        samples=int(tree["samples"]),
        file_samples=tree.get("file_samples"),
        space=dict(tree["space"]),
        published=published,
        curves=dict(tree.get("curves", {})),  # unknown to version 0.1's first searches
        base=resolve(tree["base"], {}, where=f"{folder / 'sweep.json'}, base"),
    )


def value_text(value: Any) -> str:
    """Return a swept value for people: text as it is, lists with commas, numbers short."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(value_text, value))
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)
