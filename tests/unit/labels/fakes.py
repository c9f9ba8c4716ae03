"""A teacher that costs nothing: its labels are a function of image id, version and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from raydet.arithmetic import Arithmetic
from raydet.records import PseudoBoxes, TeacherRef, Weights


def weights_of(version: int) -> Weights:
    return {"w": torch.full((8,), float(version))}


def ref_of(version: int, weights: Weights | None = None) -> TeacherRef:
    content = (weights or weights_of(version))["w"].numpy().tobytes()
    return TeacherRef(version, hashlib.sha256(content).hexdigest()[:16])


class FakeAnnotator:
    def __init__(self, bad: Sequence[str] = ()) -> None:
        self.bad = set(bad)
        self.calls: list[tuple[int, str]] = []
        self.ref: TeacherRef | None = None

    def load(self, ref: TeacherRef, weights: Weights, begun: Arithmetic | None = None) -> None:
        self.ref, self.sum, self.begun = ref, float(weights["w"].sum()), begun

    def label(self, image_ids: Sequence[str]) -> list[PseudoBoxes]:
        assert self.ref is not None
        for image_id in image_ids:
            if image_id in self.bad:
                raise OSError(f"{image_id} is not an image")
            self.calls.append((self.ref.version, image_id))
        return [fake_label(image_id, self.ref, self.sum) for image_id in image_ids]


def fake_label(image_id: str, ref: TeacherRef, weights_sum: float) -> PseudoBoxes:
    seed = hashlib.sha256(f"{image_id} {ref.version} {weights_sum}".encode()).digest()
    rng = np.random.default_rng(list(seed))
    n = int(rng.integers(0, 5))
    scores = np.sort(rng.random(n, np.float32))[::-1].copy()
    return PseudoBoxes(
        image_id,
        ref,
        torch.from_numpy(rng.random((n, 4), np.float32)),
        torch.from_numpy(rng.integers(0, 3, n)),
        torch.from_numpy(scores),
        torch.from_numpy(rng.random(n, np.float32)),
        0.05,
    )


def same(a: PseudoBoxes, b: PseudoBoxes) -> bool:
    """Bit for bit."""
    fields = ("boxes", "classes", "scores", "quality")
    return (a.image_id, a.teacher, a.complete_above) == (b.image_id, b.teacher, b.complete_above) and all(
        getattr(a, f).dtype == getattr(b, f).dtype
        and getattr(a, f).shape == getattr(b, f).shape
        and getattr(a, f).numpy().tobytes() == getattr(b, f).numpy().tobytes()
        for f in fields
    )
