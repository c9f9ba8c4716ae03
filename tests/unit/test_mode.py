"""Using a model in another mode than its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raydet.vision.mode import by_batch


def test_norms_go_by_the_batch_and_keep_the_running_statistics_that_they_had():
    model = nn.BatchNorm1d(1).eval()
    rows = torch.tensor([[1.0], [5.0]])
    with torch.no_grad(), by_batch(model):
        assert model.training
        assert model(rows).flatten().tolist() == pytest.approx([-1.0, 1.0], abs=1e-5)  # mean 3, deviation 2
    assert not model.training
    assert (float(model.running_mean), float(model.running_var), int(model.num_batches_tracked)) == (0.0, 1.0, 0)
