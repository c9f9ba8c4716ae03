"""torchvision's detectors with raydet's draws: of equally many anchors and RoIs the same ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from raydet.vision.matching import BACKGROUND, IGNORED, sample


def draw_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision's sampler draw from the global generator as raydet does from an image's own."""

    def drawn(self: BalancedPositiveNegativeSampler, kinds: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        # torchvision: a class from 1 on or an index + 1, 0 for background, -1 for what is ignored
        matched = [torch.where(k > 0, k - 1, torch.where(k == 0, BACKGROUND, IGNORED)).long() for k in kinds]
        rngs = [torch.default_generator] * len(matched)
        found = sample(matched, self.batch_size_per_image, self.positive_fraction, rngs)
        masks = [(torch.zeros_like(k, dtype=torch.uint8), torch.zeros_like(k, dtype=torch.uint8)) for k in kinds]
        for (positive, negative), (fg, bg) in zip(masks, found, strict=True):
            positive[fg] = 1
            negative[bg] = 1
        return [positive for positive, _ in masks], [negative for _, negative in masks]

    monkeypatch.setattr(BalancedPositiveNegativeSampler, "__call__", drawn)
