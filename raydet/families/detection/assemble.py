"""Joining views and pseudo-labels into the batch that the student trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from raydet.families.detection.batch import StudentBatch, ViewedImage
from raydet.families.detection.loader import StepViews
from raydet.families.detection.method import DetectionMethod, Selection
from raydet.records import PseudoBoxes, Target
from raydet.vision.geometry import boxes_into_view
from raydet.window import Window


@dataclass(slots=True)
class LabelStats:
    """What became of this rank's pseudo-labels in one step; plain numbers, for logging and alarms."""

    labeled: int = 0  # labelled images, each of which is there once per copy
    images: int = 0
    candidates: int = 0
    kept: int = 0
    degenerate: int = 0
    incomplete: int = 0  # images whose stored candidates do not reach down to the score threshold
    best_score: float = 0.0
    score_sum: float = 0.0
    quality_sum: float = 0.0
    ages: list[int] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    dropped_quality: float = 0.0  # sum over what the quality gate dropped
    background: int | None = None  # candidates that passed it as background; None: there is no such gate
    per_class: list[int] = field(default_factory=list)

    def add(self, label: PseudoBoxes, selection: Selection, num_classes: int) -> None:
        """Count one image's label."""
        kept = selection.kept
        self.images += 1
        self.incomplete += not selection.is_complete
        self.candidates += len(label)
        self.kept += len(kept)
        if len(label):
            self.best_score = max(self.best_score, float(label.scores.max()))
        self.score_sum += float(kept.scores.sum())
        self.quality_sum += float(kept.quality.sum())
        for gate, number in selection.dropped.items():
            self.dropped[gate] = self.dropped.get(gate, 0) + number
        self.dropped_quality += selection.dropped_quality
        if selection.background is not None:
            self.background = (self.background or 0) + selection.background
        counts = torch.bincount(kept.classes, minlength=num_classes).tolist()
        self.per_class = [a + b for a, b in zip(self.per_class or [0] * num_classes, counts, strict=True)]

    def observe(self, per_view: Mapping[str, Tensor]) -> None:
        """Nothing of it is logged."""

    def add_to(self, window: Window) -> None:
        """Add the figures to those since the last line of the log."""
        window.increase(
            {
                "labeled": self.labeled,
                "images": self.images,
                "candidates": self.candidates,
                "kept": self.kept,
                "degenerate": self.degenerate,
                "incomplete": self.incomplete,
                "score": self.score_sum,
                "quality": self.quality_sum,
                "age": sum(self.ages),
                "dropped_quality": self.dropped_quality,
            }
        )
        if self.background is not None:
            window.increase({"background": self.background})
        window.increase({f"dropped/{gate}": number for gate, number in self.dropped.items()})
        window.raise_to("age_max", max(self.ages, default=0))
        window.raise_to("best_score", self.best_score)
        window.per_class.update(dict(enumerate(self.per_class)))


def assemble(
    step: int,
    views: StepViews,
    labels: Sequence[PseudoBoxes],
    method: DetectionMethod,
    state: Any,
    *,
    num_classes: int,
) -> tuple[StudentBatch, LabelStats]:
    """Select the pseudo-boxes, carry them into the strong views, and put labelled and unlabelled views together.

    `state`: what the method has learned beside the weights, which its gates may follow.
    """
    stats = LabelStats(labeled=len({view.slot for view in views.labeled}))
    targets = [view.target for view in views.labeled]
    select = method.select_at(state, step)
    for view, label in zip(views.unlabeled, labels, strict=True):
        stats.ages.append(step - label.teacher.version)
        selection = select(label)
        stats.add(label, selection, num_classes)
        carried = method.carried(label, selection)
        target = to_target(carried, view, min_side_px=method.run.data.views.min_box_px)
        stats.degenerate += len(carried) - len(target)
        targets.append(target)
    every = (*views.labeled, *views.unlabeled)
    batch = StudentBatch(step, every, tuple(targets), len(views.labeled), seen=views.seen, labels=tuple(labels))
    return batch, stats


def to_target(kept: PseudoBoxes, view: ViewedImage, *, min_side_px: float) -> Target:
    """Carry boxes from original pixels into a view, each with its score and quality; boxes that vanish are dropped."""
    boxes, usable = boxes_into_view(kept.boxes, view.view, min_side_px)
    return Target(boxes, kept.classes[usable], kept.scores[usable], kept.quality[usable])
