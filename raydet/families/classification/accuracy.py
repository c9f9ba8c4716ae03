"""How often a classifier is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raydet.text import percent, plural

LEAST_FOR_TOP5 = 6  # classes; with five or fewer every image has its class among the best five


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """What a part of the images gave; parts add up."""

    images: NDArray[np.int64]  # [N] per true class
    right: NDArray[np.int64]  # [N] of these, best class is the true one
    in_top5: int  # the true one is among the best five


@dataclass(frozen=True, slots=True)
class ClassAccuracy:
    """Accuracy on the images of one class; None where there are none."""

    accuracy: float | None
    images: int


@dataclass(frozen=True, slots=True)
class ClassifierResult:
    """Shares in [0, 1]; None where undefined, because there is no image or there are too few classes."""

    accuracy: float | None
    error: float | None
    top5_error: float | None
    per_class: dict[str, ClassAccuracy]  # in the data set's order
    images: int

    @property
    def score(self) -> float | None:
        """Return the accuracy."""
        return self.accuracy

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """Return a table for people, figures in percent."""
        lines = [
            plural(self.images, "image"),
            f"accuracy {percent(self.accuracy, 2):>5}  error {percent(self.error, 2):>5}",
        ]
        if self.top5_error is not None:
            lines[-1] += f"  top-5 error {percent(self.top5_error, 2):>5}"
        width = max((len(name) for name in self.per_class), default=0)
        lines += [
            f"  {name:<{width}}  accuracy {percent(each.accuracy, 2):>5}  of {each.images}"
            for name, each in self.per_class.items()
        ]
        return "\n".join(lines)


def count(logits: Tensor, labels: NDArray[np.int64]) -> Counts:
    """Judge logits `[B, N]` by labels `[B]`; images without a label (-1) do not count.

    Raises ValueError where logits are not finite: no class of such an image is the best.
    """
    if not bool(logits.isfinite().all()):
        raise ValueError("logits contain NaN or infinity; the model has probably diverged")
    known = labels >= 0
    truth, said = labels[known], logits.numpy()[known]
    number = logits.shape[1]
    best = said.argmax(axis=1) if len(said) else np.zeros(0, dtype=np.int64)
    # The rank of the true class: how many others score higher.
    own = said[np.arange(len(said)), truth] if len(said) else np.zeros(0)
    rank = (said > own[:, None]).sum(axis=1)
    return Counts(
        images=np.bincount(truth, minlength=number),
        right=np.bincount(truth[best == truth], minlength=number),
        in_top5=int((rank < 5).sum()),
    )


def result_of(parts: Sequence[Counts], class_names: Sequence[str]) -> ClassifierResult:
    """Add up the parts."""
    images, right = (np.sum([getattr(part, name) for part in parts], axis=0) for name in ("images", "right"))
    total = int(images.sum())
    accuracy = int(right.sum()) / total if total else None
    has_top5 = bool(total) and len(class_names) >= LEAST_FOR_TOP5
    per_class = {
        name: ClassAccuracy(int(right[k]) / int(images[k]) if images[k] else None, int(images[k]))
        for k, name in enumerate(class_names)
    }
    return ClassifierResult(
        accuracy=accuracy,
        error=None if accuracy is None else 1 - accuracy,
        top5_error=1 - sum(part.in_top5 for part in parts) / total if has_top5 else None,
        per_class=per_class,
        images=total,
    )
