"""The batch of a step, and what became of its boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from raydet.contract import Alarm
from raydet.families.localization.batch import LocationBatch
from raydet.families.localization.loader import StepViews
from raydet.window import Window

WHOLE = 0.95  # of the image: a box as large as that says nothing
MEANS = ("box_area", "is_whole", "is_flat", "confidence", "kept", "left_view", "stable", "stable_without")
"""Figures of `Outputs.per_view`, one number per image; NaN where an image has none."""


@dataclass(slots=True)
class BoxStats:
    """What one step's boxes are like; plain numbers, for logging."""

    images: int
    per_view: dict[str, Tensor] = field(default_factory=dict)

    def observe(self, per_view: Mapping[str, Tensor]) -> None:
        """Take in what the forward said of each image."""
        self.per_view = {name: rows.float().cpu() for name, rows in per_view.items() if name in MEANS}

    def add_to(self, window: Window) -> None:
        """Add the figures to those since the last line of the log; every image has a pseudo-box, so all count as
        `images`."""
        window.increase({"images": self.images})
        for name, rows in self.per_view.items():
            known = rows[rows.isfinite()]
            window.increase({f"sum/{name}": float(known.sum()), f"count/{name}": len(known)})


def alarm_of_whole_images(window: Window, advice: str, after_steps: int) -> Alarm | None:
    """Say that most boxes are the whole image, which a localizer learns in no time and never unlearns."""
    seen, whole = window.sums.get("count/is_whole", 0.0), window.sums.get("sum/is_whole", 0.0)
    if whole <= seen / 2:
        return None
    return Alarm("boxes_are_the_image", f"{whole / seen:.0%} of the boxes are the whole image: {advice}", after_steps)


def assemble(step: int, views: StepViews) -> tuple[LocationBatch, BoxStats]:
    """Return the batch of a step: boxes are made while it is trained on."""
    batch = LocationBatch(step, views.ids, views.pixels, views.classes, views.strong)
    return batch, BoxStats(len(views.ids))
