"""What a family is asked for, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raydet.recipe.document import Setting
from raydet.recipe.machine import Machine

Given = Mapping[str, Any]
"""The description of one image set, as under `data.labeled`."""


@dataclass(frozen=True, slots=True)
class Request:
    """A configuration that is wanted: the data that was found, the machine, and what the user decided."""

    run_dir: str
    sets: Mapping[str, Given]  # "labeled", and of "unlabeled", "val", "test" those that there are
    machine: Machine
    labels: int | None = None  # use only so many labelled images
    method: str | None = None  # its name; None: the family chooses


@dataclass(frozen=True, slots=True)
class Recipe:
    """A configuration with its reasons."""

    settings: tuple[Setting, ...]
    notes: tuple[str, ...]  # what was seen of the data, a line each
    first: tuple[str, ...] = ()  # commands that make what the run reads
    stand_in: Given = field(default_factory=dict)  # settings to check and measure with until they were run


@dataclass(frozen=True, slots=True)
class Counts:
    """How many images a run will have, after the choice of labelled ones."""

    labeled: int
    unlabeled: int
    val_count: int | None  # to be withheld from the labelled set; None: there is a validation set, or can be none
