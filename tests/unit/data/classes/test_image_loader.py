"""Which images a classifier's steps hold, and in which views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from raydet.config.class_data import ImageDataConfig
from raydet.errors import DataError
from raydet.families.classification.data import IMAGES, PreparedImages
from raydet.families.classification.loader import ImageStepLoader, StepImages, fill_color, teacher_image
from raydet.families.classification.method import ClassificationMethod, Stage
from raydet.families.classification.views import plain_view
from raydet.registry import build_method, family_of
from tests.helpers import TINY_CLASSES, tiny_classes

Open = Callable[..., ImageStepLoader]

# Steps of the tiny run: 0 to 3 labelled images alone, 4 to 15 D2 (12 of 42 unlabelled ones each), 16 to 19 all.
EVERY_STAGE = (0, 3, 4, 9, 15, 16, 19)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedImages:
    """12 labelled images and 42 unlabelled ones."""
    return IMAGES.prepare(ImageDataConfig.model_validate(TINY_CLASSES["data"]), tmp_path_factory.mktemp("data"))


@pytest.fixture
def open_loader(data: PreparedImages) -> Iterator[Open]:
    opened: list[ImageStepLoader] = []

    def opener(rank: int = 0, world: int = 1, **changes: Any) -> ImageStepLoader:
        config = tiny_classes(Path("unused"), **changes)
        method = build_method(config)
        assert isinstance(method, ClassificationMethod)
        opened.append(ImageStepLoader(data, config, method.stage_at, rank=rank, world=world))
        return opened[-1]

    yield opener
    for each in opened:
        each.close()


def assert_same(one: StepImages, other: StepImages) -> None:
    assert one.ids == other.ids
    assert torch.equal(one.pixels, other.pixels)
    assert torch.equal(one.classes, other.classes)
    assert one.unlabeled_rows.tolist() == other.unlabeled_rows.tolist()


def test_each_stage_has_its_own_images_and_batches(open_loader: Open, data: PreparedImages) -> None:
    loader = open_loader()
    assert data.unlabeled is not None
    sizes = {
        step: (len(found.classes), len(found.unlabeled_rows)) for step in EVERY_STAGE if (found := loader.take(step))
    }
    # fine-tuning: 16 images in the proportions of 12 and 42: 16 x 12 / 54 = 3.6
    assert sizes == {0: (8, 0), 3: (8, 0), 4: (4, 12), 9: (4, 12), 15: (4, 12), 16: (4, 12), 19: (4, 12)}
    found = loader.take(4)
    assert found.ids == [data.labeled.id_at(row) for row in found.labeled_rows] + [
        data.unlabeled.id_at(row) for row in found.unlabeled_rows
    ]
    assert found.classes.tolist() == [data.labeled.label_at(int(row)) for row in found.labeled_rows]
    assert found.pixels.shape == (16, 3, 16, 16) and found.pixels.dtype == torch.uint8
    assert loader.unlabeled_ids(4) == found.ids[4:] and loader.unlabeled_rows(4) == found.unlabeled_rows.tolist()


def test_a_stage_shuffles_anew(open_loader: Open) -> None:
    loader = open_loader(method__finetune_batch=16)
    assert loader.unlabeled_rows(4) != loader.unlabeled_rows(16)  # the first batch of either stage
    assert loader.take(0).ids[:4] != loader.take(4).ids[:4]


def test_an_epoch_is_whole_batches_and_no_batch_holds_an_image_twice(open_loader: Open) -> None:
    # 42 images in batches of 12: 3 steps an epoch, 6 images of each epoch are left out.
    loader, left_out = open_loader(), []
    for first in (4, 7, 10, 13):
        seen = [row for step in range(first, first + 3) for row in loader.unlabeled_rows(step)]
        assert len(set(seen)) == 36
        left_out.append(frozenset(range(42)).difference(seen))
    assert len(set(left_out)) == 4  # others each time: none is left out for good


def test_labelled_images_run_on_across_epochs(open_loader: Open) -> None:
    loader = open_loader()
    rows = [int(row) for step in range(4, 10) for row in loader.take(step).labeled_rows]  # 6 x 4 = 2 epochs of 12
    assert Counter(rows) == dict.fromkeys(range(12), 2)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_ranks_together_see_the_batch_of_one_rank(open_loader: Open, world: int) -> None:
    whole, ranks = open_loader(), [open_loader(rank, world) for rank in range(world)]
    for step in EVERY_STAGE:
        expected, parts = whole.take(step), [each.take(step) for each in ranks]
        labeled = len(expected.classes)
        assert [each for part in parts for each in part.ids[: len(part.classes)]] == expected.ids[:labeled]
        assert [each for part in parts for each in part.ids[len(part.classes) :]] == expected.ids[labeled:]
        joined = [part.pixels[: len(part.classes)] for part in parts] + [
            part.pixels[len(part.classes) :] for part in parts
        ]
        assert torch.equal(torch.cat(joined), expected.pixels)
        for part in parts:
            assert part.all_unlabeled_rows.tolist() == expected.unlabeled_rows.tolist()
            own = expected.unlabeled_rows[part.unlabeled_slots.start : part.unlabeled_slots.stop]
            assert part.unlabeled_rows.tolist() == own.tolist()
            assert part.ids


def test_threads_and_prefetching_change_nothing(open_loader: Open) -> None:
    alone = open_loader()
    threaded = open_loader(data__loader_threads=3, data__prefetch_steps=3)
    for step in range(20):
        assert_same(alone.take(step), threaded.take(step))


def test_a_step_does_not_depend_on_the_steps_taken_before(open_loader: Open) -> None:
    first, resumed = open_loader(data__loader_threads=2), open_loader(data__loader_threads=2)
    taken = [first.take(step) for step in range(20)]
    for step in (18, 5, 11, 2):  # a resumed run starts anywhere
        assert_same(resumed.take(step), taken[step])


def test_an_image_is_seen_in_another_view_at_every_step_even_in_the_same_slot(open_loader: Open) -> None:
    loader, same, different = open_loader(optim__unlabeled_batch=42), 0, 0
    steps = [loader.take(step) for step in range(4, 10)]
    for one, other in pairwise(steps):
        for slot, (row, later) in enumerate(zip(one.unlabeled_rows, other.unlabeled_rows, strict=True)):
            if row == later:
                views = [part.pixels[len(part.classes) + slot] for part in (one, other)]
                same, different = same + torch.equal(*views), different + (not torch.equal(*views))
    assert different > 0 and same < different  # by chance one of 50 is the same: 5 x 5 places, flipped or not


def test_another_seed_is_another_order(open_loader: Open) -> None:
    assert open_loader().unlabeled_rows(4) != open_loader(seed=4).unlabeled_rows(4)


def test_holes_are_for_stages_1_and_3(open_loader: Open) -> None:
    """With a hole as large as the picture every pixel of some views has the fill colour."""
    loader = open_loader(data__views__cutout_size=64)
    fill = torch.tensor(fill_color(tiny_classes(Path("unused"))), dtype=torch.uint8)[:, None, None]
    hidden = {step: [bool((view == fill).all()) for view in loader.take(step).pixels] for step in (1, 7, 17)}
    assert all(hidden[1]) and all(hidden[17]) and not any(hidden[7])


def test_the_teacher_sees_an_image_plain_or_augmented_by_its_version(data: PreparedImages) -> None:
    config, index = tiny_classes(Path("unused")), data.unlabeled
    assert index is not None
    plain = teacher_image(index, 3, 4, "plain", config)
    assert torch.equal(plain, plain_view(index.pixels_at(3), config.data.views))
    assert torch.equal(plain, teacher_image(index, 3, 10, "plain", config))
    versions = [teacher_image(index, 3, version, "augmented", config) for version in (4, 5, 6, 7, 4)]
    assert torch.equal(versions[0], versions[4])
    assert any(not torch.equal(versions[0], each) for each in versions[1:4])


@pytest.mark.parametrize(
    ("labeled", "unlabeled", "batches"),
    [(4000, 46_000, (41, 471)), (1, 50_000, (1, 511)), (25_000, 25_000, (256, 256))],  # 40.96, 0.01, 256
)
def test_a_pooled_batch_is_shared_out_by_the_numbers_of_images(
    labeled: int, unlabeled: int, batches: tuple[int, int]
) -> None:
    stage = Stage("fine-tuning", 0, 0, 512, cutout=True, is_pooled=True)
    assert stage.batches(labeled, unlabeled) == batches


@pytest.mark.parametrize(
    ("changes", "stage", "batch"),
    [
        ({"optim__unlabeled_batch": 43}, "D2", 43),
        ({"method__finetune_batch": 60}, "fine-tuning", 47),  # 60 x 42 / 54 = 46.7
        ({"optim__unlabeled_batch": 43, "method": {"name": "mean_teacher"}}, "semi-supervised", 43),
    ],
)
def test_a_batch_of_more_images_than_there_are_is_refused(
    data: PreparedImages, changes: dict[str, Any], stage: str, batch: int
) -> None:
    with pytest.raises(DataError) as error:
        family_of(tiny_classes(Path("unused"), **changes)).check(tiny_classes(Path("unused"), **changes), data)
    assert str(error.value) == (
        f"stage {stage!r} wants {batch} unlabelled images per step, there are 42: lower optim.unlabeled_batch (r2d2: "
        f"or method.finetune_batch), or give more images"
    )
    family_of(tiny_classes(Path("unused"), optim__unlabeled_batch=42, method__finetune_batch=54)).check(
        tiny_classes(Path("unused"), optim__unlabeled_batch=42, method__finetune_batch=54), data
    )
