"""The batch of a step, and what became of its boxes."""

from __future__ import annotations

from raydet.contract import Alarm
from raydet.families.localization.batch import LocationBatch
from raydet.families.localization.loader import StepViews
from raydet.window import PerImageStats, Window

WHOLE = 0.95  # of the image: a box as large as that says nothing


def alarm_of_whole_images(window: Window, advice: str, after_steps: int) -> Alarm | None:
    """Say that most boxes are the whole image, which a localizer learns in no time and never unlearns."""
    seen, whole = window.sums.get("count/is_whole", 0.0), window.sums.get("sum/is_whole", 0.0)
    if whole <= seen / 2:
        return None
    return Alarm("boxes_are_the_image", f"{whole / seen:.0%} of the boxes are the whole image: {advice}", after_steps)


def assemble(step: int, views: StepViews) -> tuple[LocationBatch, PerImageStats]:
    """Return the batch of a step: boxes are made while it is trained on."""
    batch = LocationBatch(step, views.ids, views.pixels, views.classes, views.strong)
    return batch, PerImageStats(len(views.ids))
