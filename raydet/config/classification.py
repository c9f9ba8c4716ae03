"""ClassificationConfig: a run that trains an image classifier."""

from __future__ import annotations

from typing import ClassVar

from raydet.config.base import NonNegativeInt, PositiveFloat, PositiveInt, Weight
from raydet.config.classification_data import ImageDataConfig
from raydet.config.classification_methods import ClassificationMethodConfig
from raydet.config.classifier import ClassifierConfig
from raydet.config.optim import OptimConfig
from raydet.config.run import LabelsConfig, RunConfig


class ClassifierOptimConfig(OptimConfig):
    """Optimiser and batch. Batch sizes are GLOBAL, whatever the number of workers. Defaults: R2-D2 on CIFAR-10."""

    lr: PositiveFloat = 0.12
    """Learning rate for `reference_batch` images; see `lr_scaling`. R2-D2: that of D2 before the first reprediction."""
    reference_batch: PositiveInt = 512
    """Images per step that `lr` was chosen for (labelled + unlabelled)."""
    nesterov: bool = True
    """SGD with Nesterov's momentum."""
    weight_decay: Weight = 2e-4
    """Weight decay; biases and norm layers are exempt."""
    steps: PositiveInt = 106_250
    """Optimiser steps in all, burn-in included."""
    warmup_steps: NonNegativeInt = 0
    """Linear warm-up from lr / 1000."""
    labeled_batch: PositiveInt = 128
    """Labelled images per step, over all workers."""
    unlabeled_batch: PositiveInt = 384
    """Unlabelled images per step, over all workers."""


class ClassLabelsConfig(LabelsConfig):
    """How pseudo-labels are made and kept."""

    keep_versions: PositiveInt | None = 2
    """Keep stored labels of only so many newest teacher versions; null: all. Only resuming reads them."""


class ClassificationConfig(RunConfig):
    """One training run of an image classifier."""

    trains: ClassVar[str] = "classifier"
    figures: ClassVar[tuple[str, ...]] = ("accuracy", "error", "top5_error")

    data: ImageDataConfig
    model: ClassifierConfig = ClassifierConfig()
    method: ClassificationMethodConfig
    optim: ClassifierOptimConfig = ClassifierOptimConfig()
    labels: ClassLabelsConfig = ClassLabelsConfig()

    def contradictions(self) -> list[str]:
        """Return what cannot be meant, each with the keys and what to change."""
        found = super().contradictions()
        size, least = self.data.views.size, self.model.least_size
        if size < least:
            found.append(
                f"data.views.size={size} is too small for model.network={self.model.network}: use {least} or more, or "
                f"another network"
            )
        return found
