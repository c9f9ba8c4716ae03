"""The images of each step, decoded and made into three views ahead of time by threads.

Views and boxes of an image are a pure function of (seed, image, step, slot in the global batch).
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

import torch

from raydet.contract import ThreadedLoader
from raydet.data.boxes.index import DatasetIndex
from raydet.data.order import BatchOrder, own_slots
from raydet.data.proposals import Fallback
from raydet.families.pretraining.config import PretrainingConfig, PretrainingSection
from raydet.families.pretraining.proposals import ImageProposals
from raydet.families.pretraining.views import ThreeViews, three_views
from raydet.randomness import stream


@dataclass(frozen=True, slots=True, eq=False)
class StepViews:
    """One rank's images of one step."""

    ids: list[str]
    slots: tuple[int, ...]  # in the batch of all ranks
    images: list[ThreeViews]


class ViewLoader(ThreadedLoader[tuple[list[Future[ThreeViews]]]]):
    """Serves one rank's share of every step, `data.prefetch_steps` ahead of the training loop."""

    def __init__(
        self, index: DatasetIndex, proposals: ImageProposals, config: PretrainingConfig, *, rank: int, world: int
    ) -> None:
        """Serve rank `rank` of `world`."""
        super().__init__(config)
        assert isinstance(config.method, PretrainingSection)
        self._index, self._proposals, self._config = index, proposals, config
        self._num_boxes = config.method.num_boxes
        self._own = tuple(own_slots(config.optim.labeled_batch, rank, world))
        self._order = BatchOrder(len(index), config.optim.labeled_batch, config.seed, "images")

    def take(self, step: int) -> StepViews:
        """Return the images of a step; waits until they are ready. Raises what went wrong while loading them."""
        (jobs,) = self._ahead.take(step)
        images = [job.result() for job in jobs]
        return StepViews([self._index.id_at(row) for row in self._rows(step)], self._own, images)

    def _rows(self, step: int) -> list[int]:
        rows = self._order.positions(step)
        return [int(rows[slot]) for slot in self._own]

    def _start(self, step: int) -> tuple[list[Future[ThreeViews]]]:
        places = zip(self._rows(step), self._own, strict=True)
        return ([self._submit(row, slot, step) for row, slot in places],)

    def _submit(self, row: int, slot: int, step: int) -> Future[ThreeViews]:
        return self._ahead.submit(partial(self._views, row, slot, step), lambda: f"image {self._index.file_at(row)}")

    def _views(self, row: int, slot: int, step: int) -> ThreeViews:
        rng = stream(self._config.seed, "three views", self._index.id_at(row), step, slot)
        return views_of(self._index, self._proposals, self._config, self._num_boxes, row, rng)


def views_of(
    index: DatasetIndex,
    proposals: ImageProposals,
    config: PretrainingConfig,
    num_boxes: int,
    row: int,
    rng: torch.Generator,
) -> ThreeViews:
    """Return the three views of the image at a row of the index."""
    boxes = torch.from_numpy(proposals.boxes_at(row).copy())
    seen = three_views(index.pixels_at(row), boxes, config.data.views, num_boxes, rng)
    # Where nothing passed any filter the image itself is the box: the views' share of it, so again whole views.
    return replace(seen, is_fallback=True) if proposals.fallback_at(row) == Fallback.IMAGE else seen
