"""LCHP with a small network, and batches for single steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from raydet.families.localization.batch import LocationBatch
from raydet.families.localization.method import localization_method
from raydet.families.localization.methods.lchp import Lchp
from raydet.families.localization.model import LocalizationModel
from raydet.families.localization.views import draw_strong
from raydet.randomness import stream
from tests.helpers import tiny_places

SIDE, CLASSES = 32, 3


def lchp(tmp_path: Path, *, steps: int = 8, **method: Any) -> Lchp:
    changes = {f"method__{key}": value for key, value in method.items()}
    found = localization_method(tiny_places(tmp_path / "run", optim__steps=steps, **changes))
    assert isinstance(found, Lchp)
    return found


def model_of(method: Lchp) -> LocalizationModel:
    torch.manual_seed(0)
    return method.build_model(CLASSES).train()


def batch_of(step: int, count: int = 4) -> LocationBatch:
    rng = torch.Generator().manual_seed(step)
    strong = [draw_strong(stream(step, i), scale=True, translation=True, flip=True) for i in range(count)]
    return LocationBatch(
        step,
        [f"image {i}" for i in range(count)],
        torch.randint(256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=rng),
        torch.arange(count) % CLASSES,
        torch.stack(strong),
    )
