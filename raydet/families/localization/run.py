"""Localisation, bound to one rank of one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raydet.contract import FamilyRun
from raydet.families.localization.assemble import assemble
from raydet.families.localization.batch import LocationBatch
from raydet.families.localization.data import PreparedLocated
from raydet.families.localization.loader import LocationLoader, StepViews
from raydet.families.localization.method import LocalizationMethod
from raydet.families.localization.model import LocalizationModel
from raydet.families.localization.snapshot import write_snapshot
from raydet.window import PerImageStats, Window

FIGURES = {
    "box_area": "pseudo/box_area",
    "is_whole": "pseudo/whole_image",
    "is_flat": "pseudo/no_attention",
    "confidence": "gate/confidence",
    "kept": "gate/kept",
    "left_view": "gate/left_view",
    "stable": "stability/momentum",
    "stable_without": "stability/without",
}
"""Of `Outputs.per_view` -> in the log, means over the images that have one."""


class LocalizationRun(FamilyRun):
    """One box per image."""

    _data: PreparedLocated
    _method: LocalizationMethod

    def build_loader(self) -> LocationLoader:
        """Return this rank's loader."""
        method, group = self._method, self._group
        return LocationLoader(
            self._data.labeled, method.run, method.stage_at, method.strong, rank=group.rank, world=group.world
        )

    def assemble(
        self, step: int, views: StepViews, labels: Sequence[Any], state: Any
    ) -> tuple[LocationBatch, PerImageStats]:
        """Return the batch of a step."""
        return assemble(step, views)

    def figures(self, window: Window) -> dict[str, Any]:
        """Return what boxes and gate are like."""
        return window.means(FIGURES)

    def snapshot(self, step: int, model: LocalizationModel, state: Any, folder: Path) -> None:
        """Write what the networks say of some images."""
        write_snapshot(step, self._method, model, self._data, self._group.device, folder)
