"""A detector's share of one training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from raydet.families.detection.colors import Colors, with_torch
from raydet.records import PseudoBoxes, Target
from raydet.vision.detector import Detector
from raydet.vision.device import to_device
from raydet.vision.geometry import View
from raydet.vision.images import ImageBatch

LABELED, UNLABELED = "labeled", "unlabeled"


@dataclass(frozen=True, slots=True, eq=False)
class ViewedImage:
    """One augmented view of one image, ready for the detector."""

    image_id: str
    pixels: Tensor  # [3, H, W] uint8, RGB
    view: View  # original -> view
    target: Target  # ground truth in view pixels; empty for unlabelled images
    role: str  # which copy of the image it is; the name of the stream that its samples are drawn from
    slot: int  # of the image in the step's global batch of its group: the copies of one image share it
    colors: Colors | None = None  # to be given to `pixels` by the device that trains, see `framed`


def framed(views: Sequence[ViewedImage], model: Detector) -> ImageBatch:
    """Return the views' pixels as a network takes them, in their colours."""
    device = next(model.parameters()).device
    return model.framed(
        [
            view.pixels if view.colors is None else with_torch(to_device(view.pixels, device), view.colors)
            for view in views
        ]
    )


@dataclass(frozen=True, slots=True, eq=False)
class StudentBatch:
    """A detector's `Batch`: the views of the labelled images, copy by copy, then those of the unlabelled ones.

    `targets` of the unlabelled part are the selected pseudo-boxes. Ground truth of unlabelled images never gets here.
    """

    step: int
    views: tuple[ViewedImage, ...]
    targets: tuple[Target, ...]
    num_labeled: int  # of `views`: the first so many carry ground truth
    seen: tuple[ViewedImage, ...] = ()  # the teacher's views of the unlabelled part, where a recipe shows them
    labels: tuple[PseudoBoxes, ...] = ()  # what the teacher said of the unlabelled part, all of it

    @property
    def sizes(self) -> Mapping[str, int]:
        """Return how many views carry ground truth, and how many pseudo-labels."""
        return {LABELED: self.num_labeled, UNLABELED: len(self.views) - self.num_labeled}

    def rows(self, group: str) -> slice:
        """Return which views belong to a group."""
        return slice(0, self.num_labeled) if group == LABELED else slice(self.num_labeled, None)

    @property
    def image_ids(self) -> list[str]:
        """Return the id of each view's image."""
        return [view.image_id for view in self.views]

    def split(self, parts: int) -> list[StudentBatch]:
        """Return it in so many passes; the views of an image stay together."""
        return [self] if parts == 1 else [self._part(part, parts) for part in range(parts)]

    def _part(self, part: int, parts: int) -> StudentBatch:
        rows = []
        for group in self.sizes:
            every = range(len(self.views))[self.rows(group)]
            slots = list(dict.fromkeys(self.views[row].slot for row in every))
            own = set(slots[part * len(slots) // parts : (part + 1) * len(slots) // parts])
            rows.append([row for row in every if self.views[row].slot in own])
        chosen = [row for group in rows for row in group]
        views, targets = tuple(self.views[row] for row in chosen), tuple(self.targets[row] for row in chosen)
        unlabeled = [row - self.num_labeled for row in rows[1]]
        seen = tuple(self.seen[row] for row in unlabeled) if self.seen else ()
        labels = tuple(self.labels[row] for row in unlabeled) if self.labels else ()
        return StudentBatch(self.step, views, targets, len(rows[0]), seen, labels)
