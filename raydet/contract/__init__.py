"""What the engine asks of a method and of a family of methods; it asks nothing else, and knows none of them by name.

A *method* is one paper: which labels it needs, what the student minimises, what it learns beside the weights. A
*family* is what methods of one kind share: data, views, network, evaluation. A `FamilyRun` is a family in one run.
"""

from __future__ import annotations

from raydet.contract.family import Exported, Family, FamilyRun, ListingLoader, Loader, Result, StepStats, ThreadedLoader
from raydet.contract.method import Method
from raydet.contract.types import (
    Alarm,
    Batch,
    DataSizes,
    Finding,
    LossTerm,
    Outputs,
    ParamGroup,
    State,
    Teacher,
    sizes_of,
)

__all__ = [
    "Alarm",
    "Batch",
    "DataSizes",
    "Exported",
    "Family",
    "FamilyRun",
    "Finding",
    "ListingLoader",
    "Loader",
    "LossTerm",
    "Method",
    "Outputs",
    "ParamGroup",
    "Result",
    "State",
    "StepStats",
    "Teacher",
    "ThreadedLoader",
    "sizes_of",
]
