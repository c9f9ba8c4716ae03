"""Looking through a model without training it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Use a model in evaluation mode and without gradients; afterwards it is in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


@contextmanager
def by_batch(model: nn.Module) -> Iterator[None]:
    """Use a model in training mode, whose norms go by the batch; afterwards its buffers, such as running statistics,
    and its mode are what they were."""
    was_training, before = model.training, {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    try:
        yield
    finally:
        model.train(was_training)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])
