"""Small runs of gradient-based sampling."""

from __future__ import annotations

from pathlib import Path

import torch

from raydet.contract import DataSizes
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.gradient_state import GradientState
from raydet.families.detection.methods.gradient_sampling import GradientSampling
from raydet.group import Group
from raydet.registry import build_method
from tests.helpers import tiny_soft

EARLY: dict[str, object] = {
    "name": "gradient_sampling",
    "gbr_warmup_steps": 1,
    "gbt_warmup_steps": 1,
    "crs_warmup_steps": 0,
    "crs_rebuild_steps": 3,
    "crs_repeat_threshold_max": 400.0,
    "gbr_ema": 0.9,
    "weight_logits_lr": 0.05,
}


def sampled(run: Path, *, method: dict[str, object] | None = None, **changes: object) -> DetectionConfig:
    return tiny_soft(run, method={**EARLY, **(method or {})}, **changes)


def built(**method: object) -> GradientSampling:
    found = build_method(sampled(Path("unused"), method=dict(method)))
    assert isinstance(found, GradientSampling)
    return found


def state_of(classes: int = 3, unlabeled: int = 4) -> GradientState:
    return GradientState.fresh(DataSizes(5, unlabeled, classes))


def sums_of(matrix: torch.Tensor, weights: float = 1.0) -> dict[str, torch.Tensor]:
    n = len(matrix)
    return {
        "gradients": matrix,
        "weights": torch.tensor([[10.0, 10.0], [10.0 * weights, 10.0 * weights]]),
        "scores": torch.zeros(2, n - 1),
        "logits": torch.zeros(2, n),
    }


def updated(method: GradientSampling, state: GradientState, step: int, sums: dict[str, torch.Tensor]) -> None:
    batch = type("Batch", (), {"step": step})()
    method.update(state, batch, {}, sums, Group())


def run_of(folder: Path, **changes: object) -> DetectionConfig:
    """Twelve steps; images are listed anew at 3, 6, 9, each time from two steps later on."""
    settings = {
        "optim__steps": 12,
        "labels__lookahead": 2,
        "labels__publish_every": 2,
        "data__loader_threads": 2,
        "data__prefetch_steps": 4,
        "model__roi_fg_iou": 0.3,
    }
    return sampled(folder, **{**settings, **changes})
