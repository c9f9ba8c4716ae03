"""Statistics of batch norms over ranks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from raydet.train.step import share_statistics


@pytest.mark.parametrize("world", [2, 3, 5, 7, 12])
def test_statistics_that_are_equal_on_all_ranks_stay_as_they_are_to_the_bit(world: int):
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).exp() * 0.1
    statistics = [values[:4000].clone(), values[4000:].reshape(60, 100).clone()]
    assert not torch.equal(sum(values for _ in range(3)) / 3, values)  # in float32 it would not be so

    def added_up(own: torch.Tensor) -> torch.Tensor:
        """Rank after rank, as a ring does."""
        return torch.stack([own] * world).cumsum(dim=0)[-1]

    share_statistics(statistics, SimpleNamespace(world=world, sum=added_up))
    assert torch.equal(torch.cat([each.reshape(-1) for each in statistics]), values)


def test_others_become_their_mean():
    statistics = [torch.tensor([1.0, 2.0])]
    share_statistics(statistics, SimpleNamespace(world=2, sum=lambda own: own + torch.tensor([3.0, 6.0])))
    assert statistics[0].tolist() == [2.0, 4.0]  # (1 + 3) / 2, (2 + 6) / 2
