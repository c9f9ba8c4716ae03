"""Pre-training, bound to one rank of one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raydet.contract import FamilyRun
from raydet.families.pretraining.assemble import assemble
from raydet.families.pretraining.batch import ViewBatch
from raydet.families.pretraining.config import PretrainingConfig
from raydet.families.pretraining.data import PreparedProposals
from raydet.families.pretraining.evaluate import PretrainingResult, evaluate_sharded
from raydet.families.pretraining.loader import StepViews, ViewLoader
from raydet.families.pretraining.method import PretrainingMethod
from raydet.families.pretraining.model import PretrainingModel
from raydet.families.pretraining.proposals import proposals_of
from raydet.group import Group
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

    def __init__(
        self, config: PretrainingConfig, data: PreparedProposals, method: PretrainingMethod, group: Group
    ) -> None:
        self._config, self._data, self._method, self._group = config, data, method, group
        self._levels = len(config.model.level_bounds) + 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the one class that boxes have."""
        return self._data.class_names

    def build_loader(self) -> ViewLoader:
        """Return this rank's loader. Raises DataError where images have no proposals."""
        images, config, group = self._data.labeled, self._config, self._group
        proposals = proposals_of(images, config.data.proposals)
        return ViewLoader(images, proposals, config, rank=group.rank, world=group.world)

    def assemble(
        self, step: int, views: StepViews, labels: Sequence[Any], state: Any
    ) -> tuple[ViewBatch, PerImageStats]:
        """Return the batch of a step."""
        return assemble(step, views)

    def evaluate(self, model: PretrainingModel) -> PretrainingResult | None:
        """Return recall of the region proposals and similarity of views on held-out images."""
        assert self._data.val is not None
        return evaluate_sharded(
            self._method, model, self._data.val, self._group, max_images=self._config.eval.max_images
        )

    def figures(self, window: Window) -> dict[str, Any]:
        """Return what boxes and their projections are like."""
        levels = {f"level_{level}": f"levels/{level}" for level in range(self._levels)}
        return window.means(FIGURES | levels)

    def extras(self, step: int) -> dict[str, Any]:
        """Return how much projections differ: 1 is healthy, 0 a collapse."""
        spread = self._method.spread
        return {} if spread is None else {"similarity/projection_spread": spread}
