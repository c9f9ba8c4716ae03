"""The ranks of one training run, as far as the loop needs to know them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Group:
    """This process's place among the training processes. World size 1 needs no process group."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_lead(self) -> bool:
        """Whether this rank writes files and reports."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Wait for all ranks and return the elementwise sum of `values`."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def all_gather(self, value: Any) -> list[Any]:
        """Wait for all ranks and return everyone's value, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.all_gather(None)

    def share_of(self, rows: Sequence[int]) -> list[int]:
        """Return this rank's share of rows that are looked at once: every so manyth."""
        return list(rows[self.rank :: self.world])
