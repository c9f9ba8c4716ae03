"""The images of each step of a classifier, decoded and augmented ahead of time by threads.

As with detection, every view is a pure function of (seed, image, step, slot in the global batch). Labelled and
unlabelled images are shuffled apart, anew for every stage of the method; batches of unlabelled images never hold one
twice.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydet.contract import ThreadedLoader
from raydet.data.classes.index import ImageIndex
from raydet.data.order import BatchOrder, own_slots
from raydet.families.classification.config import ClassificationConfig
from raydet.families.classification.data import PreparedImages
from raydet.families.classification.method import Stage
from raydet.families.classification.views import augmented_view, plain_view
from raydet.randomness import stream

IMAGES_PER_JOB = 16  # small images: one job each would cost more than the images


@dataclass(frozen=True, slots=True, eq=False)
class StepImages:
    """One rank's images of one step."""

    ids: list[str]  # labelled, then unlabelled
    pixels: Tensor  # [B, 3, S, S] uint8
    classes: Tensor  # [L] int64, of the labelled images
    labeled_rows: NDArray[np.int64]  # [L] rows in the labelled index
    unlabeled_rows: NDArray[np.int64]  # [U] rows in the unlabelled index
    labeled_slots: range  # of the global batch of labelled images
    unlabeled_slots: range
    all_labeled_rows: NDArray[np.int64]  # of all ranks, in slot order
    all_unlabeled_rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Share:
    """One rank's part of one step's batch of one kind of images."""

    index: ImageIndex
    kind: str  # "labeled" or "unlabeled"
    rows: NDArray[np.int64]  # of all ranks
    slots: range

    @property
    def own(self) -> NDArray[np.int64]:
        return self.rows[self.slots.start : self.slots.stop]


def fill_color(config: ClassificationConfig) -> tuple[int, int, int]:
    """Return the data's mean colour, which Cutout's hole is filled with."""
    red, green, blue = (round(255 * share) for share in config.model.mean)
    return red, green, blue


def teacher_image(index: ImageIndex, row: int, version: int, sees: str, config: ClassificationConfig) -> Tensor:
    """Return the view `[3, S, S]` uint8 in which the teacher of `version` sees an image: plain or augmented."""
    views, pixels = config.data.views, index.pixels_at(row)
    if sees == "plain":
        return plain_view(pixels, views)
    rng = stream(config.seed, "teacher", index.id_at(row), version)
    return augmented_view(pixels, views, rng, fill=fill_color(config), cutout=False)


class ImageStepLoader(ThreadedLoader[tuple[list[Future[Tensor]], ...]]):
    """Serves one rank's share of every step, `data.prefetch_steps` ahead of the training loop."""

    def __init__(
        self,
        data: PreparedImages,
        config: ClassificationConfig,
        stage_at: Callable[[int], Stage],
        *,
        rank: int,
        world: int,
    ) -> None:
        """Serve rank `rank` of `world`."""
        super().__init__(config)
        self._data, self._config, self._stage_at = data, config, stage_at
        self._rank, self._world = rank, world
        self._fill = fill_color(config)
        self._orders: dict[tuple[str, str], BatchOrder] = {}
        self._shares = lru_cache(maxsize=32)(self._find_shares)  # asked for several times a step

    def unlabeled_ids(self, step: int) -> list[str]:
        """Return the ids of this rank's unlabelled images of a step, in slot order; reads no image."""
        assert self._data.unlabeled is not None, "this run has no unlabelled images"
        return [self._data.unlabeled.id_at(row) for row in self.unlabeled_rows(step)]

    def unlabeled_rows(self, step: int) -> list[int]:
        """Return their rows in the index."""
        return [int(row) for row in self._shares(step)[1].own]

    def take(self, step: int) -> StepImages:
        """Return the images of a step; waits until they are ready. Raises what went wrong while loading them."""
        labeled, unlabeled = self._shares(step)
        chunks = [future.result() for group in self._ahead.take(step) for future in group]
        size = self._config.data.views.size
        return StepImages(
            ids=[share.index.id_at(int(row)) for share in (labeled, unlabeled) for row in share.own],
            pixels=torch.cat([torch.empty(0, 3, size, size, dtype=torch.uint8), *chunks]),
            classes=torch.tensor([labeled.index.label_at(int(row)) for row in labeled.own], dtype=torch.int64),
            labeled_rows=labeled.own,
            unlabeled_rows=unlabeled.own,
            labeled_slots=labeled.slots,
            unlabeled_slots=unlabeled.slots,
            all_labeled_rows=labeled.rows,
            all_unlabeled_rows=unlabeled.rows,
        )

    def _find_shares(self, step: int) -> tuple[_Share, _Share]:
        data, stage = self._data, self._stage_at(step)
        unlabeled = data.unlabeled if data.unlabeled is not None else data.labeled
        counts = stage.batches(len(data.labeled), len(unlabeled))
        first, second = (
            self._share(index, kind, count, step - stage.first, stage.name)
            for index, kind, count in zip((data.labeled, unlabeled), ("labeled", "unlabeled"), counts, strict=True)
        )
        return first, second

    def _share(self, index: ImageIndex, kind: str, batch: int, step: int, stage: str) -> _Share:
        if batch == 0:
            return _Share(index, kind, np.zeros(0, dtype=np.int64), range(0))
        order = self._orders.get((kind, stage))
        if order is None:
            name, whole = f"{kind} {stage}", kind == "unlabeled"
            order = BatchOrder(len(index), batch, self._config.seed, name, whole_epochs=whole)
            self._orders[kind, stage] = order
        return _Share(index, kind, order.positions(step), own_slots(batch, self._rank, self._world))

    def _start(self, step: int) -> tuple[list[Future[Tensor]], ...]:
        return tuple([self._submit(share, part, step) for part in _chunks(share)] for share in self._shares(step))

    def _submit(self, share: _Share, places: range, step: int) -> Future[Tensor]:
        cutout = self._stage_at(step).cutout
        return self._ahead.submit(
            partial(self._views, share, places, step, cutout), lambda: f"{share.kind} images of step {step}"
        )

    def _views(self, share: _Share, places: range, step: int, cutout: bool) -> Tensor:
        """Return the views `[n, 3, S, S]` of the images at `places` of this rank's share."""
        config, found = self._config, []
        for place in places:
            row, slot = int(share.own[place]), share.slots[place]
            rng = stream(config.seed, share.kind, share.index.id_at(row), step, slot)
            pixels = share.index.pixels_at(row)
            found.append(augmented_view(pixels, config.data.views, rng, fill=self._fill, cutout=cutout))
        return torch.stack(found)


def _chunks(share: _Share) -> list[range]:
    count = len(share.slots)
    return [range(start, min(start + IMAGES_PER_JOB, count)) for start in range(0, count, IMAGES_PER_JOB)]
