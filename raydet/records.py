"""The records that cross module boundaries. All are frozen: a change is a new record."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

Weights = dict[str, Tensor]
"""A copy of a model's state dict, on its device."""


@dataclass(frozen=True, slots=True)
class TeacherRef:
    """Which teacher said something."""

    version: int  # the step (optimiser steps completed) at which its EMA weights were taken
    digest: str  # of those weights (`vision/digests.py`); within one run, version -> digest is a function


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
class Masks:
    """Which pixels of a view each of N objects covers, a bit a pixel; see `raydet.vision.masks`."""

    bits: Tensor  # [N, ceil(height * width / 8)] uint8: the rows of the view one behind the other, highest bit first
    known: Tensor  # [N] bool: whether anybody has drawn it
    height: int  # of the view, pixels
    width: int

    def __len__(self) -> int:
        return int(self.bits.shape[0])

    def where(self, mask: Tensor) -> Masks:
        """Keep the rows of a boolean mask `[N]`, or the rows of an index tensor in its order."""
        return replace(self, bits=self.bits[mask], known=self.known[mask])


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """A detector's class-wise boxes for one image, before or after NMS, in the pixels of the view it was given."""

    boxes: Tensor  # [N, 4] float32 xyxy, view pixels, clipped to the view
    classes: Tensor  # [N] int64, 0-based, no background
    scores: Tensor  # [N] float32, softmax probability of `classes`, descending
    quality: Tensor  # [N] float32, see `Detector.candidates`
    complete_above: float
    masks: Tensor | None = None  # [N, M, M] float32: how probably the object covers each cell of its box

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    def where(self, mask: Tensor) -> Candidates:
        """Keep the rows of a boolean mask `[N]`, or the rows of an index tensor in its order."""
        rows = (self.boxes[mask], self.classes[mask], self.scores[mask], self.quality[mask])
        return Candidates(*rows, self.complete_above, None if self.masks is None else self.masks[mask])

    def with_masks(self, masks: Tensor) -> Candidates:
        """Return them with masks `[N, M, M]`."""
        return replace(self, masks=masks)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The boxes one view of one image is trained on; zero boxes are valid and mean 'background only'."""

    boxes: Tensor  # [N, 4] float32 xyxy, pixels of the VIEW
    classes: Tensor  # [N] int64, 0-based, no background
    scores: Tensor  # [N] float32 in [0, 1], how sure the label is of `classes`; ground truth: 1
    quality: Tensor  # [N] float32, how well the box is placed, as the method defines it; ground truth: 1
    verified: Tensor | None = None  # [C] int64: classes that are nowhere without a box; None: all, as is usual
    masks: Masks | None = None  # of N objects; None: masks were not asked for

    def __post_init__(self) -> None:
        """Raise ValueError where the columns differ in length: a loss would weigh one box by another's score."""
        columns = {"boxes": self.boxes, "classes": self.classes, "scores": self.scores, "quality": self.quality}
        columns |= {} if self.masks is None else {"masks": self.masks.bits}
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
        columns = (self.boxes[mask], self.classes[mask], self.scores[mask], self.quality[mask])
        masks = None if self.masks is None else self.masks.where(mask)
        return Target(*columns, verified=self.verified, masks=masks)


@dataclass(frozen=True, slots=True, eq=False)
class PseudoLogits:
    """What one teacher said about the class of one image."""

    image_id: str
    teacher: TeacherRef
    logits: Tensor  # [N] float32, before the softmax


PseudoLabel = PseudoBoxes | PseudoLogits
"""One teacher's label of one image, of whatever family."""
