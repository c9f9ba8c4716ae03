from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from raydet.labels.annotator import ModelAnnotator
from raydet.records import PseudoLabel, TeacherRef
from tests.helpers import tiny_config


class Teller(ModelAnnotator[nn.Module, str, PseudoLabel]):
    """Remembers what it was asked, and in which state its model was."""

    def see(self, image_id: str, version: int) -> str:
        return f"{image_id}@{version}"

    def annotate(self, ids: Sequence[str], views: Sequence[str], ref: TeacherRef) -> list[PseudoLabel]:
        self.asked.append((list(ids), list(views), torch.is_grad_enabled()))
        return [None] * len(ids)  # type: ignore[list-item]


def test_a_teacher_is_in_evaluation_mode_without_gradients_and_sees_so_many_images_at_a_time():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    teller = Teller(tiny_config(Path("unused"), labels__forward_images=2), model, "cpu")
    teller.asked = []
    assert not any(part.training for part in teller.model.modules())
    assert not any(each.requires_grad for each in teller.model.parameters())
    with pytest.raises(AssertionError, match="before load"):
        teller.label(["a"])
    weights = {name: torch.ones_like(each) for name, each in model.state_dict().items()}
    teller.load(TeacherRef(7, "digest"), weights)
    assert len(teller.label(["a", "b", "c"])) == 3
    assert teller.asked == [(["a", "b"], ["a@7", "b@7"], False), (["c"], ["c@7"], False)]
    assert torch.equal(teller.model[0].weight, torch.ones(2, 2))
