"""PSOL: a classifier, then a localizer that learns the boxes of its class activation maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raydet.families.localization.batch import LocationBatch
from raydet.families.localization.boxes import encode
from raydet.families.localization.method import localization_method
from raydet.families.localization.methods import psol as module
from raydet.families.localization.methods.psol import Psol
from tests.helpers import tiny_places

BOXES = torch.tensor([[0.0, 0.0, 1.0, 0.96], [0.0, 0.0, 1.0, 0.94], [0.1, 0.2, 0.3, 0.6], [0.0, 0.0, 0.5, 0.5]])


@pytest.fixture
def psol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Psol:
    monkeypatch.setattr(module, "cam_boxes", lambda *given: BOXES[:, None])
    settings = {"name": "psol", "burn_in_steps": 4, "localizer_lr": 0.5, "classifier_decay_steps": 100}
    found = localization_method(tiny_places(tmp_path / "run", method=settings))
    assert isinstance(found, Psol)
    return found


def batch(step: int) -> LocationBatch:
    pixels = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(step))
    return LocationBatch(step, list("abcd"), pixels, torch.arange(4) % 3, torch.zeros(4, 0))


def test_one_network_is_trained_at_a_time(psol: Psol):
    classifier, localizer = psol.param_groups()
    assert [classifier.lr_at(step) for step in (0, 3)] == [psol.run.optim.lr] * 2
    assert [classifier.lr_at(step) for step in (4, 7)] == [None, None]
    assert [localizer.lr_at(step) for step in (0, 3, 4, 7)] == [None, None, 0.5, 0.5]


@pytest.mark.parametrize(("step", "alone", "other"), [(3, "init/cls", "boxes/reg"), (4, "boxes/reg", "init/cls")])
def test_a_stage_has_one_term(psol: Psol, step: int, alone: str, other: str):
    torch.manual_seed(0)
    model = psol.build_model(3).train()
    terms = psol.losses(model, batch(step), None, None).losses
    assert int(terms[alone].count) == 4 and float(terms[alone].total.detach()) > 0
    assert int(terms[other].count) == 0 and float(terms[other].total.detach()) == 0
    terms[alone].total.backward()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == ({"classifier"} if alone == "init/cls" else {"localizer"})


def test_the_localizer_learns_the_boxes_of_the_maps(psol: Psol, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model = psol.build_model(3).train()
    said: list[Tensor] = []
    real = model.localizer.forward
    monkeypatch.setattr(model.localizer, "forward", lambda *given: said.append(real(*given)) or said[0])
    found: Any = psol.losses(model, batch(5), None, None)
    distances = (said[0] - encode(BOXES, psol.config.box_encoding)) ** 2
    expected = float(distances.sum().detach()) / (1 if psol.config.reg_reduction == "sum" else 4)
    assert float(found.losses["boxes/reg"].total.detach()) == pytest.approx(expected, rel=1e-5)
    # .96, .94, .2 * .4 and .25 of the image; from .95 on it says nothing
    assert found.per_view["box_area"].tolist() == pytest.approx([0.96, 0.94, 0.08, 0.25])
    assert found.per_view["is_whole"].tolist() == [1, 0, 0, 0]
