"""Pre-training, bound to one rank of one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raydet.contract import FamilyRun
from raydet.families.pretraining.assemble import assemble
from raydet.families.pretraining.batch import ViewBatch
from raydet.families.pretraining.data import PreparedProposals
from raydet.families.pretraining.loader import StepViews, ViewLoader
from raydet.families.pretraining.method import PretrainingMethod
from raydet.families.pretraining.proposals import proposals_of
from raydet.window import PerImageStats, Window

FIGURES = {
    "similarity": "similarity/views",
    "fallback": "boxes/fallback",
    "repeated": "boxes/repeated",
    "anchors": "anchors/on_boxes",
}
"""Of `Outputs.per_view` -> in the log, means over images."""


class PretrainingRun(FamilyRun):
    """Three views of every image."""

    _data: PreparedProposals
    _method: PretrainingMethod

    def build_loader(self) -> ViewLoader:
        """Return this rank's loader. Raises DataError where images have no proposals."""
        images, config, group = self._data.labeled, self._method.run, self._group
        proposals = proposals_of(images, config.data.proposals)
        return ViewLoader(images, proposals, config, rank=group.rank, world=group.world)

    def assemble(
        self, step: int, views: StepViews, labels: Sequence[Any], state: Any
    ) -> tuple[ViewBatch, PerImageStats]:
        """Return the batch of a step."""
        return assemble(step, views)

    def figures(self, window: Window) -> dict[str, Any]:
        """Return what boxes and their projections are like."""
        number = len(self._method.run.model.level_bounds) + 1
        levels = {f"level_{level}": f"levels/{level}" for level in range(number)}
        return window.means(FIGURES | levels)

    def extras(self, step: int) -> dict[str, Any]:
        """Return how much projections differ: 1 is healthy, 0 a collapse."""
        spread = self._method.spread
        return {} if spread is None else {"similarity/projection_spread": spread}
