"""The images of each step, decoded and cut ahead of time by threads.

Every view is a pure function of (seed, image, step, slot in the global batch), and so are the parameters of the strong
view. Images are shuffled anew for each stage of the method.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from raydet.contract import ThreadedLoader
from raydet.data.located.index import LocatedIndex
from raydet.data.order import BatchOrder, own_slots
from raydet.families.localization.config import LocalizationConfig
from raydet.families.localization.method import Stage
from raydet.families.localization.views import StrongSwitches, draw_strong, plain_view
from raydet.randomness import stream


@dataclass(frozen=True, slots=True, eq=False)
class StepViews:
    """One rank's images of one step."""

    ids: list[str]
    pixels: Tensor  # [B, 3, S, S] uint8
    classes: Tensor  # [B] int64
    strong: Tensor  # [B, 8] float64


@dataclass(frozen=True, slots=True)
class _Place:
    """One image of a step: its row, and its slot in the batch of all ranks."""

    row: int
    slot: int


class LocationLoader(ThreadedLoader[tuple[list[Future[Tensor]]]]):
    """Serves one rank's share of every step, `data.prefetch_steps` ahead of the training loop."""

    def __init__(
        self,
        index: LocatedIndex,
        config: LocalizationConfig,
        stage_at: Callable[[int], Stage],
        switches: StrongSwitches,
        *,
        rank: int,
        world: int,
    ) -> None:
        """Serve rank `rank` of `world`."""
        super().__init__(config)
        self._index, self._config, self._stage_at, self._switches = index, config, stage_at, switches
        self._own = own_slots(config.optim.labeled_batch, rank, world)
        self._orders: dict[str, BatchOrder] = {}
        self._places = lru_cache(maxsize=32)(self._find_places)

    def take(self, step: int) -> StepViews:
        """Return the images of a step; waits until they are ready. Raises what went wrong while loading them."""
        (jobs,) = self._ahead.take(step)
        views, places = [job.result() for job in jobs], self._places(step)
        return StepViews(
            ids=[self._index.id_at(place.row) for place in places],
            pixels=torch.stack(views),
            classes=torch.tensor([self._index.label_at(place.row) for place in places], dtype=torch.int64),
            strong=torch.stack([self._strong(place, step) for place in places]),
        )

    def _find_places(self, step: int) -> tuple[_Place, ...]:
        stage = self._stage_at(step)
        order = self._orders.get(stage.name)
        if order is None:
            batch = self._config.optim.labeled_batch
            order = self._orders[stage.name] = BatchOrder(len(self._index), batch, self._config.seed, stage.name)
        rows = order.positions(step - stage.first)
        return tuple(_Place(int(rows[slot]), slot) for slot in self._own)

    def _start(self, step: int) -> tuple[list[Future[Tensor]]]:
        return ([self._submit(place, step) for place in self._places(step)],)

    def _submit(self, place: _Place, step: int) -> Future[Tensor]:
        return self._ahead.submit(partial(self._view, place, step), lambda: f"image {self._index.name_at(place.row)}")

    def _view(self, place: _Place, step: int) -> Tensor:
        config, image_id = self._config, self._index.id_at(place.row)
        rng = stream(config.seed, "plain", image_id, step, place.slot)
        return plain_view(self._index.pixels_at(place.row), config.data.views, rng)[0]

    def _strong(self, place: _Place, step: int) -> Tensor:
        rng = stream(self._config.seed, "strong", self._index.id_at(place.row), step, place.slot)
        on = self._switches
        return draw_strong(rng, scale=on.scale, translation=on.translation, flip=on.flip)
