"""Laws of the learning rate: pure functions of the settings and the step."""

from __future__ import annotations

import math

from raydet.config.optim import OptimConfig


def images_per_step(config: OptimConfig, *, uses_unlabeled: bool) -> int:
    """Return the images of a step over all workers.

    `unlabeled_batch` has a value in every configuration; it counts only where the method reads such images
    (`RunConfig.uses_labels`).
    """
    return config.labeled_batch + (config.unlabeled_batch if uses_unlabeled else 0)


def base_lr(config: OptimConfig, *, uses_unlabeled: bool) -> float:
    """Return the learning rate after warm-up, scaled to the batch where the config asks for it."""
    if config.lr_scaling == "none":
        return config.lr
    return config.lr * images_per_step(config, uses_unlabeled=uses_unlabeled) / config.reference_batch


def lr_at(step: int, config: OptimConfig, *, uses_unlabeled: bool) -> float:
    """Return the learning rate of the step that starts after `step` completed ones.

    Linear warm-up; then `schedule=steps`: down to a tenth at each step of `decay_at`, `schedule=cosine`: down to 0.
    """
    lr = base_lr(config, uses_unlabeled=uses_unlabeled) * warm_up(step, config)
    if config.schedule == "cosine":
        return lr * half_cosine(step / config.steps)
    return lr * 0.1 ** sum(step >= boundary for boundary in config.decay_at)


def warm_up(step: int, config: OptimConfig) -> float:
    """Return the factor of the warm-up: linear from 1 / 1000 (detectron2) to 1."""
    if step >= config.warmup_steps:
        return 1.0
    progress = step / config.warmup_steps
    return 0.001 * (1 - progress) + progress


def half_cosine(progress: float) -> float:
    """Return 1 at progress 0, 0 at 1, along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))
