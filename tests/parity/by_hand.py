"""Comparing with numbers that were worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

F64 = torch.float64


def near(values: object) -> object:
    return pytest.approx(values, abs=1.5e-6)


def boxes(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)
