"""The batch of a step."""

from __future__ import annotations

import torch
from torch import Tensor

from raydet.families.pretraining.batch import ViewBatch
from raydet.families.pretraining.loader import StepViews
from raydet.families.pretraining.views import ThreeViews
from raydet.window import PerImageStats


def assemble(step: int, views: StepViews) -> tuple[ViewBatch, PerImageStats]:
    """Return the batch of a step."""
    images = views.images
    p1, p2, p3 = (torch.stack([image.pixels[number] for image in images]) for number in range(3))
    b1, b2, b3 = (torch.stack([image.boxes[number] for image in images]) for number in range(3))
    batch = ViewBatch(
        step,
        views.ids,
        views.slots,
        (p1, p2, p3),
        (b1, b2, b3),
        torch.stack([image.ids for image in images]),
        torch.stack([_matrices(image) for image in images]),
        torch.stack([_facts(image) for image in images]),
    )
    return batch, PerImageStats(len(images))


def _matrices(image: ThreeViews) -> Tensor:
    rows = [(view.matrix[0], view.matrix[2], view.matrix[4], view.matrix[5]) for view in image.views]
    return torch.tensor(rows, dtype=torch.float64)


def _facts(image: ThreeViews) -> Tensor:
    repeated = 0 if image.is_fallback else len(image.ids) - len(set(image.ids.tolist()))
    return torch.tensor([float(image.is_fallback), float(repeated)])
