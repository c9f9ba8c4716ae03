"""The records that cross module boundaries. All are frozen: a change is a new record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from raydet.geometry import View

Weights = dict[str, np.ndarray]
"""A model's state dict as NumPy arrays: crosses processes without a copy (torch tensors are copied on every read)."""


@dataclass(frozen=True, slots=True)
class TeacherRef:
    """Which teacher said something."""

    version: int  # the step (optimiser steps completed) at which its EMA weights were taken
    digest: str  # content hash of those weights; within one run, version -> digest is a function


@dataclass(frozen=True, slots=True, eq=False)
class PseudoBoxes:
    """What one teacher said about one image, unfiltered above the score floor.

    Rows are *candidates*. A method whose gate acts before NMS (IL-net's theta) stores them before NMS, so that every
    threshold can be applied when the label is read. `complete_above` says how far down the list is complete: every
    candidate with a score above it is present (it is the score floor unless the top-k cut something off).
    """

    image_id: str
    teacher: TeacherRef
    boxes: Tensor  # [N, 4] float32 xyxy, pixels of the ORIGINAL image
    classes: Tensor  # [N] int64, 0-based, no background
    scores: Tensor  # [N] float32 in [0, 1], class confidence, descending
    quality: Tensor  # [N] float32, localisation quality, higher is better; the method defines it
    complete_above: float

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    def where(self, mask: Tensor) -> PseudoBoxes:
        """Keep the rows of a boolean mask `[N]`, or the rows of an index tensor in its order."""
        return replace(
            self,
            boxes=self.boxes[mask],
            classes=self.classes[mask],
            scores=self.scores[mask],
            quality=self.quality[mask],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """A detector's class-wise boxes for one image, before or after NMS, in the pixels of the view it was given."""

    boxes: Tensor  # [N, 4] float32 xyxy, view pixels, clipped to the view
    classes: Tensor  # [N] int64, 0-based, no background
    scores: Tensor  # [N] float32, softmax probability of `classes`, descending
    quality: Tensor  # [N] float32, see `Detector.candidates`
    complete_above: float

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    def where(self, mask: Tensor) -> Candidates:
        """Keep the rows of a boolean mask `[N]`, or the rows of an index tensor in its order."""
        return Candidates(
            self.boxes[mask], self.classes[mask], self.scores[mask], self.quality[mask], self.complete_above
        )


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The boxes one view of one image is trained on; zero boxes are valid and mean 'background only'."""

    boxes: Tensor  # [N, 4] float32 xyxy, pixels of the VIEW
    classes: Tensor  # [N] int64, 0-based, no background
    scores: Tensor  # [N] float32 in [0, 1], how sure the label is of `classes`; ground truth: 1
    quality: Tensor  # [N] float32, how well the box is placed, as the method defines it; ground truth: 1

    def __post_init__(self) -> None:
        """Raise ValueError where the columns differ in length: a loss would weigh one box by another's score."""
        columns = {"boxes": self.boxes, "classes": self.classes, "scores": self.scores, "quality": self.quality}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"target with columns of different lengths: {lengths}")

    @staticmethod
    def truth(boxes: Tensor, classes: Tensor) -> Target:
        """Return ground truth: boxes `[N, 4]` and classes `[N]` that nobody doubts."""
        sure = torch.ones(len(boxes), device=boxes.device)
        return Target(boxes, classes, sure, sure)

    @staticmethod
    def empty() -> Target:
        """Return a target without boxes."""
        return Target.truth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    def where(self, mask: Tensor) -> Target:
        """Keep the rows of a boolean mask `[N]`, or the rows of an index tensor in its order."""
        return Target(self.boxes[mask], self.classes[mask], self.scores[mask], self.quality[mask])


@dataclass(frozen=True, slots=True, eq=False)
class ViewedImage:
    """One augmented view of one image, ready for the detector."""

    image_id: str
    pixels: Tensor  # [3, H, W] uint8, RGB
    view: View  # original -> view
    target: Target  # ground truth in view pixels; empty for unlabelled images


class Batch(Protocol):
    """This rank's share of one training step, as far as the engine needs to know it."""

    @property
    def step(self) -> int:
        """Return the step: optimiser steps completed before it."""

    @property
    def image_ids(self) -> list[str]:
        """Return the ids of its images, for messages."""

    @property
    def num_labeled(self) -> int:
        """Return how many of its views carry ground truth."""

    @property
    def num_unlabeled(self) -> int:
        """Return how many of its views carry pseudo-labels."""

    def split(self, parts: int) -> Sequence[Batch]:
        """Return it in so many passes, each with its share of labelled and unlabelled images, in order."""


@dataclass(frozen=True, slots=True, eq=False)
class StudentBatch:
    """A detector's `Batch`: labelled views first (strong copies, then weak copies), then the unlabelled strong views.

    `targets` of the unlabelled part are the selected pseudo-boxes. Ground truth of unlabelled images never gets here.
    """

    step: int
    views: tuple[ViewedImage, ...]
    targets: tuple[Target, ...]
    num_labeled: int  # of `views`: the first so many carry ground truth

    @property
    def num_unlabeled(self) -> int:
        """Return how many of the views carry pseudo-labels."""
        return len(self.views) - self.num_labeled

    @property
    def image_ids(self) -> list[str]:
        """Return the id of each view's image."""
        return [view.image_id for view in self.views]

    def split(self, parts: int) -> list[StudentBatch]:
        """Return it in so many passes; the two views of a labelled image stay together."""
        if parts == 1:
            return [self]
        pairs = self.num_labeled // 2
        found = []
        for part in range(parts):
            own = _share(pairs, part, parts)
            rows = [*own, *(pairs + row for row in own)]
            labeled = len(rows)
            rows += [self.num_labeled + row for row in _share(self.num_unlabeled, part, parts)]
            views, targets = (tuple(each[row] for row in rows) for each in (self.views, self.targets))
            found.append(StudentBatch(self.step, views, targets, num_labeled=labeled))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class StepRows:
    """Rows of a `Memory` that a step is about, on all ranks."""

    rows: Tensor  # [G] int64, of all ranks together
    own: Tensor  # [g] int64, the places in `rows` of this rank's views, in their order
    version: int  # of the teacher whose labels they started from


@dataclass(frozen=True, slots=True, eq=False)
class ClassBatch:
    """A classifier's `Batch`: labelled views first, then the unlabelled ones."""

    step: int
    image_ids: list[str]
    pixels: Tensor  # [B, 3, S, S] uint8, RGB
    classes: Tensor  # [L] int64, ground truth of the labelled views
    pseudo_logits: Tensor  # [U, N] float32: what the unlabelled views are trained on; of ground truth nothing gets here
    learned_logits: Tensor | None = None  # [L, N] float32, where labels of labelled images are learned; NaN: not yet
    rows: StepRows | None = None  # where there is a memory, and a step has unlabelled views

    @property
    def num_labeled(self) -> int:
        """Return how many of the views carry ground truth."""
        return len(self.classes)

    @property
    def num_unlabeled(self) -> int:
        """Return how many of the views carry pseudo-labels."""
        return len(self.pseudo_logits)

    def split(self, parts: int) -> list[ClassBatch]:
        """Return it in so many passes."""
        return [self] if parts == 1 else [self._part(part, parts) for part in range(parts)]

    def _part(self, part: int, parts: int) -> ClassBatch:
        labeled, unlabeled = (_share(n, part, parts) for n in (self.num_labeled, self.num_unlabeled))
        rows = [*labeled, *(self.num_labeled + row for row in unlabeled)]
        ids, own = [self.image_ids[row] for row in rows], slice(labeled.start, labeled.stop)
        pseudo = self.pseudo_logits[unlabeled.start : unlabeled.stop]
        learned = None if self.learned_logits is None else self.learned_logits[own]
        return ClassBatch(self.step, ids, self.pixels[rows], self.classes[own], pseudo, learned)


def _share(number: int, part: int, parts: int) -> range:
    return range(part * number // parts, (part + 1) * number // parts)


@dataclass(frozen=True, slots=True, eq=False)
class PseudoLogits:
    """What one teacher said about the class of one image."""

    image_id: str
    teacher: TeacherRef
    logits: Tensor  # [N] float32, before the softmax


PseudoLabel = PseudoBoxes | PseudoLogits
"""One teacher's label of one image, of whatever family."""


@dataclass(frozen=True, slots=True, eq=False)
class LossTerm:
    """A loss as sum and count, so that its mean can be taken over all ranks at once."""

    total: Tensor  # scalar SUM over elements; on the graph even when it is empty
    count: Tensor  # scalar number of elements that it is to be divided by, after summing over ranks


@dataclass(frozen=True, slots=True, eq=False)
class StepTerms:
    """What one forward over a batch gives."""

    losses: dict[str, LossTerm]
    told: dict[str, Tensor]  # name -> one row per view, detached: what a method learns from beside gradients
