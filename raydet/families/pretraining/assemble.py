"""The batch of a step, and what became of its boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from raydet.families.pretraining.batch import ViewBatch
from raydet.families.pretraining.loader import StepViews
from raydet.families.pretraining.views import ThreeViews
from raydet.window import Window


@dataclass(slots=True)
class SimilarityStats:
    """What one step's boxes are like; plain numbers, for logging."""

    images: int
    per_view: dict[str, Tensor] = field(default_factory=dict)

    def observe(self, per_view: Mapping[str, Tensor]) -> None:
        """Take in what the forward said of each image: figures `[B]`, NaN where an image has none."""
        self.per_view = {name: rows.float().cpu() for name, rows in per_view.items()}

    def add_to(self, window: Window) -> None:
        """Add the figures to those since the last line of the log; every image counts as one of `images`."""
        window.increase({"images": self.images})
        for name, rows in self.per_view.items():
            known = rows[rows.isfinite()]
            window.increase({f"sum/{name}": float(known.sum()), f"count/{name}": len(known)})


def assemble(step: int, views: StepViews) -> tuple[ViewBatch, SimilarityStats]:
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
    return batch, SimilarityStats(len(images))


def _matrices(image: ThreeViews) -> Tensor:
    rows = [(view.matrix[0], view.matrix[2], view.matrix[4], view.matrix[5]) for view in image.views]
    return torch.tensor(rows, dtype=torch.float64)


def _facts(image: ThreeViews) -> Tensor:
    repeated = 0 if image.is_fallback else len(image.ids) - len(set(image.ids.tolist()))
    return torch.tensor([float(image.is_fallback), float(repeated)])
