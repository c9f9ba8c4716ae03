"""The optimiser and its batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydet.config.base import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Section, Weight

LARS_TRUST = 0.001


class OptimConfig(Section):
    """Optimiser and batch. Batch sizes are GLOBAL, whatever the number of workers."""

    name: Literal["sgd", "adamw", "lars"] = "sgd"
    """Which optimiser. `lars`: SGD whose steps are a share of each layer's weights, for batches of thousands."""
    lr: PositiveFloat = 0.0075
    """Learning rate for `reference_batch` images; see `lr_scaling`."""
    lr_scaling: Literal["none", "linear"] = "none"
    """`linear` multiplies lr by (labeled_batch + unlabeled_batch) / reference_batch, or by labeled_batch /
    reference_batch where the method uses no unlabelled images; the result is printed."""
    reference_batch: PositiveInt = 24
    """Images per step that `lr` was chosen for (labelled + unlabelled, where the method uses such)."""
    momentum: Fraction = 0.9
    """Momentum of SGD and LARS."""
    nesterov: bool = False
    """SGD with Nesterov's momentum."""
    lars_trust: PositiveFloat = LARS_TRUST
    """With `name: lars`: the share (trust coefficient)."""
    weight_decay: Weight = 1e-4
    """Weight decay; biases and norm layers are exempt."""
    steps: PositiveInt = 180_000
    """Optimiser steps in all, burn-in included."""
    warmup_steps: NonNegativeInt = 1000
    """Linear warm-up from lr / 1000."""
    schedule: Literal["steps", "cosine"] = "steps"
    """`steps`: constant, but for `decay_at`. `cosine`: falls to 0 at `steps` along half a cosine."""
    decay_at: tuple[PositiveInt, ...] = ()
    """Steps at which the learning rate falls to a tenth."""
    labeled_batch: PositiveInt = 12
    """Labelled images per step, over all workers. Each enters a detector twice: strong and weak view."""
    unlabeled_batch: PositiveInt = 12
    """Unlabelled images per step, over all workers."""
    clip_norm: PositiveFloat | None = None
    """Clip the gradient norm to this."""
    divergence_ratio: Annotated[float, Field(gt=1)] | None = 10.0
    """A run has diverged where the loss of a step is above this, and above so many times its running median: an alarm,
    and checkpoints that are marked unhealthy; where it stays so, the run ends. `null`: never."""
    accumulate: PositiveInt = 1
    """Split each step into so many passes to save memory. The optimiser sees the same gradient, but where batch norms
    train: they see the images of one pass."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 on GPUs with hardware for it, and on CPUs with hardware for it where a short timing (kept in the
    user's cache folder) finds it faster; fp32 elsewhere. It is settled when a run begins, by its first process: a
    resume, other ranks and teachers keep to it on such devices. fp16 uses a gradient scaler."""

    @model_validator(mode="after")
    def _one_law(self) -> OptimConfig:
        if self.schedule == "cosine" and self.decay_at:
            raise ValueError("schedule=cosine and decay_at are two laws of the learning rate; keep one of them")
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov is SGD's: set name=sgd and a momentum above 0, or nesterov=false")
        if self.lars_trust != LARS_TRUST and self.name != "lars":
            raise ValueError(f"lars_trust is for name=lars, and name={self.name}: remove it, or set name=lars")
        return self
