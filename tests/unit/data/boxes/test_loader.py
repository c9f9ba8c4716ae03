from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.data.order import BatchOrder
from raydet.errors import DataError
from raydet.families.detection.batch import ViewedImage
from raydet.families.detection.config import DetectionConfig
from raydet.families.detection.data import BOXES
from raydet.families.detection.loader import StepLoader, StepViews, TeacherViews, teacher_view
from raydet.records import Target
from tests.unit.data.boxes.loader_fakes import FakeData, FakeIndex, assert_same, config, recipe, some_images


@pytest.fixture
def data(tmp_path: Path) -> FakeData:
    return FakeData(some_images(tmp_path / "l", 5, "l"), some_images(tmp_path / "u", 7, "u"))


def labels_from_2(step: int) -> int | None:
    return None if step < 2 else step - step % 3


Open = Callable[..., StepLoader]


@pytest.fixture
def open_loader(data: FakeData) -> Iterator[Open]:
    opened: list[StepLoader] = []

    def opener(settings: DetectionConfig, rank: int = 0, world: int = 1) -> StepLoader:
        each: Any = data
        views = TeacherViews(each, settings, recipe(settings))
        opened.append(
            StepLoader(
                each, settings, views, rank=rank, world=world, version_for=labels_from_2, recipe=recipe(settings)
            )
        )
        return opened[-1]

    yield opener
    for each in opened:
        each.close()


def test_threads_and_prefetching_change_nothing(open_loader: Open) -> None:
    alone = open_loader(config(loader_threads=0))
    threaded = open_loader(config(loader_threads=3, prefetch_steps=3))
    for step in range(12):
        a, b = alone.take(step), threaded.take(step)
        assert_same(a.labeled, b.labeled)
        assert_same(a.unlabeled, b.unlabeled)
        assert a.dropped_boxes == b.dropped_boxes


def test_a_step_does_not_depend_on_the_steps_taken_before(open_loader: Open) -> None:
    first, resumed = open_loader(config(loader_threads=2)), open_loader(config(loader_threads=2))
    taken = [first.take(step) for step in range(6)]
    for step in (5, 2, 4):  # a resumed run starts anywhere
        assert_same(resumed.take(step).labeled, taken[step].labeled)
        assert_same(resumed.take(step).unlabeled, taken[step].unlabeled)


@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_together_see_the_batch_of_one_rank(open_loader: Open, world: int) -> None:
    settings = config(loader_threads=0)
    whole = open_loader(settings)
    ranks = [open_loader(settings, rank, world) for rank in range(world)]
    for step in (0, 3):
        expected, parts = whole.take(step), [each.take(step) for each in ranks]

        def joined(copies: Callable[[StepViews], tuple[ViewedImage, ...]], parts: list[StepViews] = parts) -> Any:
            return tuple(view for part in parts for view in copies(part))

        assert_same(joined(strong_copies), strong_copies(expected))
        assert_same(joined(weak_copies), weak_copies(expected))
        assert_same(joined(lambda part: part.unlabeled), expected.unlabeled)
        assert [i for each in ranks for i in each.unlabeled_ids(step)] == whole.unlabeled_ids(step)


def strong_copies(views: StepViews) -> tuple[ViewedImage, ...]:
    return views.labeled[: len(views.labeled) // 2]


def weak_copies(views: StepViews) -> tuple[ViewedImage, ...]:
    return views.labeled[len(views.labeled) // 2 :]


def test_the_student_sees_the_teachers_geometry_in_other_colours(open_loader: Open, data: FakeData) -> None:
    settings = config(loader_threads=0, views={"color_jitter": 1.0})
    index: Any = data.unlabeled
    for view in open_loader(settings).take(7).unlabeled:
        weak = teacher_view(index, view.image_id, 6, settings, recipe(settings))  # 7 - 7 % 3
        assert view.view == weak.view and view.pixels.shape == weak.pixels.shape
        assert not torch.equal(view.pixels, weak.pixels)
        assert len(weak.target.classes) == len(view.target.classes) == 0


def test_the_teachers_view_changes_with_its_version_only(data: FakeData) -> None:
    index: Any = data.unlabeled
    one = teacher_view(index, "u2", 3, config(), recipe(config()))
    assert_same((one,), (teacher_view(index, "u2", 3, config(), recipe(config())),))
    assert len({teacher_view(index, "u2", version, config(), recipe(config())).view for version in range(12)}) > 2


def test_the_unlabelled_order_uses_the_absolute_step(open_loader: Open) -> None:
    opened = open_loader(config(loader_threads=0))
    order = BatchOrder(7, 4, 3, "unlabeled")
    for step in (2, 9):
        expected = [f"u{i}" for i in order.positions(step)]
        assert opened.unlabeled_ids(step) == expected
        assert [view.image_id for view in opened.take(step).unlabeled] == expected


def test_without_a_teacher_no_unlabelled_image_is_touched(open_loader: Open, data: FakeData) -> None:
    opened = open_loader(config(loader_threads=0))
    assert data.unlabeled is not None
    assert opened.take(0).unlabeled == () and opened.take(1).unlabeled == ()
    assert data.unlabeled.read == []
    assert len(opened.take(2).unlabeled) == 4


def test_both_copies_of_a_labelled_image_share_view_and_boxes(open_loader: Open, data: FakeData) -> None:
    taken = open_loader(config(loader_threads=0)).take(0)
    assert len(taken.labeled) == 10
    for strong, weak in zip(strong_copies(taken), weak_copies(taken), strict=True):
        assert strong.image_id == weak.image_id and strong.view == weak.view
        assert torch.equal(strong.target.boxes, weak.target.boxes)
        original = data.labeled.target_at(data.labeled.position(weak.image_id))
        assert torch.equal(weak.target.classes, original.classes)
        assert torch.allclose(weak.view.to_original(weak.target.boxes), original.boxes, atol=1e-3)
    assert any(
        not torch.equal(s.pixels, w.pixels) for s, w in zip(strong_copies(taken), weak_copies(taken), strict=True)
    )


def test_boxes_that_get_too_thin_are_dropped_and_counted(open_loader: Open, data: FakeData) -> None:
    # Short edge 40 -> 20 px at least halves each image; a box of 3 px becomes 1.5 px or less, one of 20 px 7 or more.
    thin, kept = [5.0, 5.0, 8.0, 25.0], [10.0, 10.0, 30.0, 30.0]
    data.labeled.targets = [Target.truth(torch.tensor([thin, kept]), torch.tensor([0, 1]))] * 5
    taken = open_loader(config(loader_threads=0, views={"short_side": [20], "min_box_px": 2.0})).take(0)
    assert taken.dropped_boxes == 5  # once per image, not per copy
    assert all(view.target.classes.tolist() == [1] for view in taken.labeled)
    assert all(view.target.scores.tolist() == view.target.quality.tolist() == [1] for view in taken.labeled)


def test_an_image_without_boxes_stays_background(open_loader: Open, data: FakeData) -> None:
    data.labeled.targets = [Target.empty()] * 5
    taken = open_loader(config(loader_threads=0)).take(0)
    assert taken.dropped_boxes == 0
    assert all(view.target.boxes.shape == (0, 4) for view in taken.labeled)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_damaged_image_is_named_when_its_step_is_taken(open_loader: Open, data: FakeData, threads: int) -> None:
    opened = open_loader(config(loader_threads=threads))
    for file in data.labeled.files:
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"l\d\.png"):
        opened.take(0)


@pytest.mark.parametrize("threads", [0, 2])
def test_any_error_in_a_thread_surfaces_with_the_file(
    open_loader: Open, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    def broken(index: FakeIndex, i: int) -> torch.Tensor:
        raise RuntimeError("no more memory")

    monkeypatch.setattr(FakeIndex, "pixels_at", broken)
    with pytest.raises(RuntimeError, match="no more memory") as caught:
        open_loader(config(loader_threads=threads)).take(0)
    assert any("l" in note and ".png" in note for note in caught.value.__notes__)


def test_an_image_that_changed_its_size_is_refused(open_loader: Open, data: FakeData) -> None:
    data.labeled.sizes = [(1, 2)] * 5
    with pytest.raises(DataError, match=r"l\d\.png.*was 2x1"):
        open_loader(config(loader_threads=0)).take(0)


def test_the_next_steps_are_prepared_while_the_loop_works_but_none_after_the_last(open_loader: Open) -> None:
    opened = open_loader(config(loader_threads=2, prefetch_steps=2))
    opened.take(0)
    assert sorted(opened._ahead._coming) == [1, 2]
    opened.take(10)
    assert sorted(opened._ahead._coming) == [11]  # the last of 12; steps 1 and 2 were given up
    before = threading.active_count()
    opened.close()
    assert threading.active_count() < before


def test_prepared_shapes_are_served(tmp_path: Path) -> None:
    settings = config(
        loader_threads=2,
        labeled={"path": "shapes", "shapes": {"num_images": 12, "height": 32, "width": 48}},
        unlabeled=None,
        labeled_count=5,
    )
    data = BOXES.prepare(settings.data, tmp_path)
    views = TeacherViews(data, settings, recipe(settings))
    opened = StepLoader(data, settings, views, rank=0, world=1, version_for=labels_from_2, recipe=recipe(settings))
    try:
        taken = opened.take(2)
    finally:
        opened.close()
    assert len(taken.labeled) == 10 and len(taken.unlabeled) == 4
    assert all(len(view.target.classes) > 0 for view in taken.labeled)
    assert all(min(view.pixels.shape[1:]) in (32, 40, 48) for view in (*taken.labeled, *taken.unlabeled))
