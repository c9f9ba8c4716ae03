"""A classifier's share of one training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

LABELED, UNLABELED = "labeled", "unlabeled"


@dataclass(frozen=True, slots=True, eq=False)
class StepRows:
    """Rows of the label table that a step is about, on all ranks."""

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
    rows: StepRows | None = None  # where there is a table, and a step has unlabelled views

    @property
    def sizes(self) -> Mapping[str, int]:
        """Return how many views carry ground truth, and how many pseudo-labels."""
        return {LABELED: self.num_labeled, UNLABELED: self.num_unlabeled}

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
