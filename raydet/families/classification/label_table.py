"""Pseudo-labels as free variables: one logit vector per image, learned beside the network's weights (R2-D2).

A row belongs to the teacher version whose prediction it started from. After a reprediction all rows are of an older
version, and each takes its new start when its image comes up next, so nobody waits for all images to be predicted.

Every rank holds the whole table, in main memory: D x N float32 and 8 bytes a row, 5.1 GB for ImageNet's 1.28 M images
and 1000 classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raydet.errors import CheckpointError
from raydet.text import plural

NEVER = -1


class LabelTable:
    """Learned pseudo-logits of D images and N classes; a `Memory`.

    The rows of unlabelled images come first, in the order of their index; labelled images have rows behind them where
    their labels are learned too.
    """

    def __init__(self, num_unlabeled: int, num_classes: int, *, num_labeled: int = 0) -> None:
        self.num_unlabeled = num_unlabeled
        num_images = num_unlabeled + num_labeled
        self.logits = torch.zeros(num_images, num_classes)  # [D, N] float32
        self.versions = torch.full((num_images,), NEVER, dtype=torch.int64)  # [D] which prediction a row started from

    @property
    def learns_labeled(self) -> bool:
        """Whether labelled images have rows."""
        return len(self.logits) > self.num_unlabeled

    def needs(self, rows: Sequence[int], version: int) -> list[bool]:
        """Say which rows have not taken their start from the prediction of that teacher yet."""
        return [bool(stale) for stale in self.versions[list(rows)] != version]

    def read(self, rows: Tensor) -> Tensor:
        """Return copies `[B, N]` of the rows `[B]`; NaN where nothing was learned yet."""
        return self.logits[rows].masked_fill((self.versions[rows] == NEVER)[:, None], torch.nan)

    def write(self, rows: Tensor, logits: Tensor, version: int) -> None:
        """Overwrite rows `[B]` by `[B, N]`; of a row given twice the later one stays."""
        last = {row: place for place, row in enumerate(rows.tolist())}
        if len(last) < len(rows):  # index assignment leaves open which one stays
            places = list(last.values())
            rows, logits = rows[places], logits[places]
        self.logits[rows] = logits
        self.versions[rows] = version

    def tensors(self) -> dict[str, Tensor]:
        """Return the table as it is saved; nothing where no row was ever written."""
        if bool((self.versions == NEVER).all()):
            return {}
        return {"logits": self.logits, "versions": self.versions}

    def load(self, tensors: dict[str, Tensor], where: str) -> None:
        """Become a saved table. Raises CheckpointError where it is none, or of other images or classes."""
        logits = _checked("logits", tensors, self.logits, where)
        versions = _checked("versions", tensors, self.versions, where)
        found, expected = logits.shape, self.logits.shape
        if found != expected:
            raise CheckpointError(
                f"{where}: its label table is of {plural(found[0], 'image')} and {plural(found[1], 'class')}, this "
                f"run has {expected[0]:,} and {expected[1]}; a table belongs to one data set: use the run's own data"
            )
        if len(versions) != len(logits):
            raise CheckpointError(
                f"{where}: its label table has logits of {len(logits):,} images, but versions of {len(versions):,}; "
                f"use another checkpoint"
            )
        # Both are NaN where anything is; this takes a tenth of the time of `isfinite`, and no memory.
        if logits.numel() and not all(bound.isfinite() for bound in logits.aminmax()):
            raise CheckpointError(
                f"{where}: its label table holds NaN or infinite logits, expected finite numbers; use another "
                f"checkpoint"
            )
        self.logits.copy_(logits)
        self.versions.copy_(versions)

    @property
    def nbytes(self) -> int:
        """Return the memory that it takes on every rank."""
        return self.logits.nbytes + self.versions.nbytes


def _checked(name: str, tensors: dict[str, Tensor], own: Tensor, where: str) -> Tensor:
    """Return a tensor of a file after a look at its type and dimensions."""
    if (found := tensors.get(name)) is None:
        there = ", ".join(repr(key[:40]) for key in sorted(tensors)[:10]) or "nothing"
        raise CheckpointError(
            f"{where}: its label table lacks {name!r} (there is: {there}), expected 'logits' and 'versions'; use "
            f"another checkpoint"
        )
    if found.dtype != own.dtype or found.ndim != own.ndim:
        raise CheckpointError(
            f"{where}: {name} of its label table are {found.dtype} {list(found.shape)}, expected {own.dtype} "
            f"{list(own.shape)}; use another checkpoint"
        )
    return found
