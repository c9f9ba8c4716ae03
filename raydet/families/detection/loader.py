"""The images of each step, decoded and augmented ahead of time by threads.

Every view is a pure function of (seed, image, step or teacher version, slot in the global batch). Neither threads nor
the number of ranks change what a step trains on, and a resumed run sees the very same views.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raydet.contract import ThreadedLoader
from raydet.data.boxes.index import DatasetIndex
from raydet.data.order import ListedOrder, Listing, own_slots
from raydet.errors import DataError
from raydet.families.detection.batch import ViewedImage
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import PreparedBoxes
from raydet.families.detection.view_recipes import ViewRecipe
from raydet.randomness import stream
from raydet.records import Target
from raydet.vision.geometry import boxes_into_view
from raydet.vision.masks import masks_into_view

T = TypeVar("T")
_Pair = tuple[ViewedImage, ViewedImage]


@dataclass(frozen=True, slots=True, eq=False)
class StepViews:
    """One rank's images of one step."""

    labeled: tuple[ViewedImage, ...]  # copy by copy, of the same images in the same order
    unlabeled: tuple[ViewedImage, ...]  # the student's views in slot order, without targets; none: no teacher labels
    dropped_boxes: int  # boxes of labelled images that got thinner than `views.min_box_px`, once per image
    seen: tuple[ViewedImage, ...] = ()  # the teacher's views of the same, where the recipe shows them


@dataclass(frozen=True, slots=True, eq=False)
class LabeledCopies:
    """The copies of one labelled image; they share view and target."""

    copies: tuple[ViewedImage, ...]
    dropped_boxes: int


def teacher_view(
    index: DatasetIndex, image_id: str, version: int, config: DetectionConfig, recipe: ViewRecipe
) -> ViewedImage:
    """Return the view in which the teacher of `version` sees an image; its target is empty.

    Raises DataError where the image cannot be read.
    """
    pixels, view = recipe.teacher(
        _pixels(index, index.position(image_id)), stream(config.seed, "weak", image_id, version)
    )
    return ViewedImage(image_id, pixels, view, Target.empty(), role="weak", slot=0)


def student_view(
    seen: ViewedImage, original: Callable[[], Tensor], step: int, slot: int, seed: int, recipe: ViewRecipe
) -> ViewedImage:
    """Return the student's view of an unlabelled image, drawn for this step, beside the one that the teacher saw."""
    rng = stream(seed, "strong", seen.image_id, step, slot)
    look, view = recipe.student((seen.pixels, seen.view), original, rng)
    return ViewedImage(seen.image_id, look.pixels, view, seen.target, "unlabeled", slot, look.colors)


def labeled_views(
    index: DatasetIndex, position: int, step: int, slot: int, config: DetectionConfig, recipe: ViewRecipe
) -> LabeledCopies:
    """Return the copies of a labelled image, with its boxes in view pixels."""
    image_id = index.id_at(position)
    copies, view = recipe.labeled(
        _pixels(index, position), lambda purpose: stream(config.seed, purpose, image_id, step, slot)
    )
    truth = index.target_at(position)
    boxes, usable = boxes_into_view(truth.boxes, view, config.data.views.min_box_px)
    verified = truth.verified if config.data.federated else None
    target = replace(truth.where(usable), boxes=boxes, verified=verified)
    if config.data.masks:
        known = [rle for rle, keep in zip(index.own_masks_at(position), usable.tolist(), strict=True) if keep]
        target = replace(target, masks=masks_into_view(known, *index.size_at(position), view))
    found = [
        ViewedImage(image_id, look.pixels, view, target, role, slot, look.colors)
        for role, look in zip(recipe.roles, copies, strict=True)
    ]
    return LabeledCopies(tuple(found), dropped_boxes=len(truth) - len(target))


class TeacherViews:
    """The teacher's views of unlabelled images, shared by the two that need each of them once: the teacher, which
    labels it, and the loader, which makes the student's view from it or shows it beside that one.

    Which of them comes first depends on `labels.lookahead` and `data.prefetch_steps`. The first one makes the view and
    leaves it here, the second one takes it away. At most `keep` views wait; then the oldest is dropped, and made again
    should it be wanted after all. A view is a pure function of its key, so none of this changes a bit. Thread-safe.
    """

    def __init__(self, data: PreparedBoxes, config: DetectionConfig, recipe: ViewRecipe, *, keep: int = 0) -> None:
        """With `keep` 0, for a process that has only one of the two, every view is made when it is asked for."""
        self._index, self._config, self._recipe, self._keep = data.unlabeled, config, recipe, keep
        self._waiting: OrderedDict[tuple[str, int], Future[ViewedImage]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, image_id: str, version: int) -> ViewedImage:
        """Return `teacher_view(image_id, version)`; its pixels may be shared and must not be changed.

        Waits where another thread is making it. Raises what goes wrong, to both users.
        """
        assert self._index is not None, "this run has no unlabelled images"
        key, mine = (image_id, version), Future[ViewedImage]()
        with self._lock:
            made = self._waiting.pop(key, None)
            if made is None:
                self._waiting[key] = mine
                while len(self._waiting) > self._keep:
                    self._waiting.popitem(last=False)
        if made is not None:
            return made.result()
        try:
            mine.set_result(teacher_view(self._index, image_id, version, self._config, self._recipe))
        except BaseException as error:
            mine.set_exception(error)
        return mine.result()


def views_for_training(data: PreparedBoxes, config: DetectionConfig, recipe: ViewRecipe, world: int) -> TeacherViews:
    """Return the views of one of `world` ranks; they are kept for the teacher only where it works in this process.

    What waits for its second user: the images of the steps by which the labels or the loader may be ahead, and of the
    step at hand.
    """
    if not config.uses_labels or config.labels.source != "inline":
        return TeacherViews(data, config, recipe)
    steps = max(config.labels.lookahead, config.data.prefetch_steps) + 1
    return TeacherViews(data, config, recipe, keep=steps * -(-config.optim.unlabeled_batch // world))


def _pixels(index: DatasetIndex, position: int) -> Tensor:
    """Decode an image and make sure that it is still the one its boxes were checked against."""
    pixels = index.pixels_at(position)
    found, expected = tuple(pixels.shape[1:]), tuple(index.size_at(position))
    if found != expected:
        size, before = f"{found[1]}x{found[0]}", f"{expected[1]}x{expected[0]}"
        raise DataError(
            f"{index.file_at(position)}: the image is {size} pixels (width x height), but was {before} when the data "
            f"set was prepared; restore the file, or prepare again in a new run folder"
        )
    return pixels


class StepLoader(ThreadedLoader[tuple[list[Future[LabeledCopies]], list[Future[_Pair]]]]):
    """Serves one rank's share of every step, `data.prefetch_steps` ahead of the training loop."""

    def __init__(
        self,
        data: PreparedBoxes,
        config: DetectionConfig,
        views: TeacherViews,
        *,
        rank: int,
        world: int,
        version_for: Callable[[int], int | None],
        recipe: ViewRecipe,
    ) -> None:
        """Serve rank `rank` of `world`; `version_for(step)` says which teacher labels a step, None: no unlabelled."""
        super().__init__(config)
        optim = config.optim
        self._config = config
        self._views = views
        self._version_for = version_for
        self._recipe = recipe
        self._labeled = _Share(data.labeled, optim.labeled_batch, config.seed, "labeled", rank, world)
        self._unlabeled = (
            _Share(data.unlabeled, optim.unlabeled_batch, config.seed, "unlabeled", rank, world)
            if data.unlabeled is not None and len(data.unlabeled)
            else None
        )

    def unlabeled_ids(self, step: int) -> list[str]:
        """Return the ids of this rank's unlabelled images of a step, in slot order; reads no image."""
        assert self._unlabeled is not None, "this run has no unlabelled images"
        return [self._unlabeled.index.id_at(row) for row in self.unlabeled_rows(step)]

    def unlabeled_rows(self, step: int) -> list[int]:
        """Return their rows in the index."""
        assert self._unlabeled is not None, "this run has no unlabelled images"
        return [position for _, position in self._unlabeled.slots(step)]

    def all_unlabeled_rows(self, step: int) -> NDArray[np.int64]:
        """Return the rows of the unlabelled images of a step, those of all ranks, in slot order."""
        assert self._unlabeled is not None, "this run has no unlabelled images"
        return self._unlabeled.order.positions(step)

    def list_anew(self, listings: Sequence[Listing], until: int | None) -> None:
        """Follow these listings; of steps from `until` on, which are not settled yet, nothing is prepared ahead."""
        shares = {"labeled": self._labeled, "unlabeled": self._unlabeled}
        for name, share in shares.items():
            if share is not None:
                own = [listing for listing in listings if listing.set_name == name]
                share.order.list_anew(own, until if name == "unlabeled" else None)
        self._ahead.end = self._config.length if until is None else min(self._config.length, until)

    def take(self, step: int) -> StepViews:
        """Return the views of a step; waits until they are ready. Raises what went wrong while loading them."""
        labeled, unlabeled = self._ahead.take(step)
        images, pairs = [future.result() for future in labeled], [future.result() for future in unlabeled]
        return StepViews(
            labeled=tuple(image.copies[copy] for copy in range(len(self._recipe.roles)) for image in images),
            unlabeled=tuple(student for student, _ in pairs),
            dropped_boxes=sum(image.dropped_boxes for image in images),
            seen=tuple(seen for _, seen in pairs) if self._recipe.shows_teacher_views else (),
        )

    def _start(self, step: int) -> tuple[list[Future[LabeledCopies]], list[Future[_Pair]]]:
        config, labeled, unlabeled = self._config, self._labeled.index, self._unlabeled
        images = [
            self._submit(partial(labeled_views, labeled, position, step, slot, config, self._recipe), labeled, position)
            for slot, position in self._labeled.slots(step)
        ]
        version = self._version_for(step)
        if version is None:
            return images, []
        assert unlabeled is not None, f"step {step} has a teacher, but this run has no unlabelled images"
        views = [
            self._submit(partial(self._pair, position, version, step, slot), unlabeled.index, position)
            for slot, position in unlabeled.slots(step)
        ]
        return images, views

    def _pair(self, position: int, version: int, step: int, slot: int) -> _Pair:
        """Return an unlabelled image as the student and as the teacher sees it."""
        assert self._unlabeled is not None
        index = self._unlabeled.index
        seen = self._views.take(index.id_at(position), version)
        student = student_view(seen, lambda: _pixels(index, position), step, slot, self._config.seed, self._recipe)
        return student, seen

    def _submit(self, job: Callable[[], T], index: DatasetIndex, position: int) -> Future[T]:
        return self._ahead.submit(job, lambda: index.file_at(position))


class _Share:
    """One rank's contiguous slice of the global batch of every step."""

    def __init__(self, index: DatasetIndex, batch: int, seed: int, name: str, rank: int, world: int) -> None:
        self.index = index
        self.order = ListedOrder(len(index), batch, seed, name)
        self._slice = own_slots(batch, rank, world)

    def slots(self, step: int) -> list[tuple[int, int]]:
        """Return (slot in the global batch, position in the index) of each image of a step."""
        positions = self.order.positions(step)
        return [(slot, int(positions[slot])) for slot in self._slice]
