"""What a teacher computes in: as its run began, where the configuration leaves it open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from raydet import precision
from raydet.arithmetic import Arithmetic
from raydet.labels.annotator import ModelAnnotator
from raydet.records import PseudoLogits, TeacherRef
from raydet.vision.weights import weights_of
from tests.helpers import tiny_config

REF = TeacherRef(3, "abc")


class Doubling(ModelAnnotator[nn.Linear, torch.Tensor, PseudoLogits]):
    """Says x + w of x = 1, w = 2^-9: bf16 has 8 bits and says 1."""

    def see(self, image_id: str, version: int) -> torch.Tensor:
        return torch.ones(1)

    def annotate(self, ids: Sequence[str], views: Sequence[torch.Tensor], ref: TeacherRef) -> Sequence[PseudoLogits]:
        return [PseudoLogits(ids[0], ref, self.model(views[0]).float())]


def said(tmp_path: Path, asked: str, begun: Arithmetic | None) -> float:
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 1 + 2**-9)
    nn.init.zeros_(model.bias)
    annotator = Doubling(tiny_config(tmp_path / "run", optim__precision=asked), model, "cpu")
    annotator.load(REF, weights_of(model), begun)
    return float(annotator.label(["a"])[0].logits)


@pytest.fixture(autouse=True)
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16_hardware", lambda: False)


def test_a_teacher_on_another_processor_rounds_as_its_run_does(tmp_path: Path):
    exact, rounded = 1 + 2**-9, 1.0
    assert said(tmp_path, "auto", None) == exact
    assert said(tmp_path, "auto", Arithmetic("cpu", "bf16")) == rounded
    assert said(tmp_path, "auto", Arithmetic("cuda", "bf16")) == exact  # of devices of the other kind
    assert said(tmp_path, "fp32", Arithmetic("cpu", "bf16")) == exact
