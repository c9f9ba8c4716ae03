"""How a detector's settings follow from data and machine, with the arithmetic beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydet.families.detection.recipe import rules
from raydet.families.detection.recipe.facts import BoxFacts, look_at, smallest
from raydet.families.detection.recipe.propose import model, views
from raydet.families.detection.views import resized
from raydet.recipe.machine import GIB, Machine
from tests.tiny_data import coco_content, read_table, write_coco, write_image

CPU, CPUS_16 = Machine(2, 8 * GIB), Machine(16, 64 * GIB)
GPU, GPUS = Machine(16, 64 * GIB, (24 * GIB,)), Machine(32, 64 * GIB, (24 * GIB,) * 4)


@pytest.mark.parametrize(
    ("short", "long", "small", "side"),
    [
        (480, 640, 41, 240),  # 480 x 16 / 41 = 188 would do, but 240 is usual
        (360, 480, 100, 240),
        (480, 640, 24, 272),  # 320 wanted; 110,000 pixels are 287 x 383, in sixteenths 272
        (300, 300, 9, 300),  # 534 wanted, 332 affordable: not worth enlarging, the images' own size
        (128, 160, 4, 256),  # 512 wanted, at most twice the size
        (128, 160, 40, 128),  # never enlarged without need
        (2000, 3000, 50, 256),  # 640 wanted; 110,000 pixels are 271 x 406
    ],
)
def test_views_on_two_cores_are_as_small_as_the_boxes_allow(short: int, long: int, small: float, side: int):
    assert rules.short_side(short, long, small, CPU)[0] == side


def test_sixteen_cores_are_counted_as_eight_and_allow_four_times_the_pixels():
    assert rules.budget(CPUS_16) == 440_000 == 4 * rules.budget(CPU)
    assert rules.short_side(480, 640, 15, CPUS_16)[0] == 480  # 512 wanted, 574 affordable: its own size


def test_gpus_see_images_as_they_are_up_to_800():
    assert rules.short_side(480, 640, 100, GPU)[0] == 480
    assert rules.short_side(2000, 3000, 100, GPU)[0] == 800
    assert rules.short_side(1000, 4000, 100, GPU)[0] == 512  # 1,066,400 pixels are 516 x 2065


def test_the_reason_names_sizes_and_what_limits_them():
    assert rules.short_side(480, 640, 24, CPU)[1] == (
        "images have 480 x 640 pixels; small boxes have 14 pixels then (wanted: 16); more would exceed the 110,000 "
        "pixels a view that 2 cores are given"
    )


@settings(deadline=None, max_examples=200)
@given(st.integers(32, 5000), st.floats(1, 4), st.floats(1, 500), st.sampled_from([CPU, CPUS_16, GPU]))
def test_a_view_stays_within_the_budget_and_is_at_most_doubled(
    short: int, stretch: float, small: float, machine: Machine
):
    long = round(short * stretch)
    side, _ = rules.short_side(short, long, small, machine)
    assert 32 <= side <= 2 * short
    assert side == 32 or side * side * long / short <= rules.budget(machine) + 1


def test_a_finer_level_comes_in_where_small_boxes_have_less_than_a_cell_and_a_half_of_the_usual_one():
    assert rules.strides("efficientnet_lite0_fpn", 12.0) == (8, 16, 32)
    assert rules.strides("efficientnet_lite0_fpn", 11.9) == (4, 8, 16, 32)
    assert rules.strides("resnet50_fpn", 5.0) == (4, 8, 16, 32, 64)  # has it anyway


@pytest.mark.parametrize(("stretch", "long"), [(1.0, 240), (4 / 3, 320), (1.78, 432), (5.0, 480)])
def test_the_long_side_is_in_sixteenths_and_at_most_twice_the_short_one(stretch: float, long: int):
    assert rules.long_side(240, 1.0, stretch) == long  # 240 x 1.78 = 427.2


def test_where_images_usually_are_longer_views_are_as_long():
    assert rules.long_side(240, 5.0, 5.0) == 1200
    assert rules.long_side(240, 3.312, 9.0) == 800  # 240 x 3.312 = 794.9


@pytest.mark.parametrize(("machine", "view"), [(CPU, (176, 583)), (GPU, (375, 1242))])
def test_images_of_375_x_1242_pixels_get_their_share_of_pixels(machine: Machine, view: tuple[int, int]):
    """On a CPU 110,000 pixels are 182 x 604, in sixteenths 176; a GPU sees them as they are."""
    side, _ = rules.short_side(375, 1242, 40, machine)
    seen, _ = resized(torch.zeros(3, 375, 1242, dtype=torch.uint8), side, rules.long_side(side, 3.312, 3.312))
    assert tuple(seen.shape[1:]) == view


def facts(boxes: list[list[float]], *, short_side: int, long_side: int, stretch: tuple[float, float]) -> BoxFacts:
    """Return facts of an image of 480 x 4800 pixels with boxes, among others that are `short_side` x `long_side`."""
    return BoxFacts(
        images=9,
        class_names=("a",),
        boxes_per_class=(len(boxes),),
        short_side=short_side,
        long_side=long_side,
        stretch=stretch,
        boxes=np.array(boxes),
        classes=np.zeros(len(boxes), dtype=np.int64),
        image_sides=np.array([[480.0, 4800.0]] * len(boxes)),
        boxes_per_image=(1, 1),
    )


def test_boxes_are_as_large_as_the_views_show_them():
    seen = facts([[100.0, 20, 140, 60]], short_side=480, long_side=640, stretch=(4 / 3, 10.0)).seen(240, 480)
    assert seen.round(6).tolist() == [[10.0, 2.0, 14.0, 6.0]]  # 480 / 4800: less than 240 / 480
    view, _ = resized(torch.zeros(3, 480, 4800, dtype=torch.uint8), 240, 480)
    assert tuple(view.shape[1:]) == (48, 480)


def test_levels_and_anchors_are_for_boxes_as_the_views_show_them():
    """Boxes of 80 pixels in images that are ten times as long as short: 8 pixels where a view has at most 480."""
    boxes = [[x, 80.0, x + 80, 160] for x in range(0, 4800, 160)]
    made = {
        setting.key: setting
        for setting in model(facts(boxes, short_side=480, long_side=640, stretch=(4 / 3, 10.0)), 240, CPU)
    }
    assert made["model.fpn_strides"].value == [4, 8, 16, 32]
    assert made["model.fpn_strides"].why.startswith("small boxes have 8 pixels in these views")
    assert made["model.anchor_sizes"].value[0] == [8]


def test_shown_smaller_is_said_of_images_that_are_longer_than_views():
    few = facts([[0.0, 0, 9, 9]], short_side=480, long_side=640, stretch=(4 / 3, 10.0))
    (long,) = [each for each in views(few, 240, "", CPU, own=False) if each.key == "data.views.max_long_side"]
    assert (long.value, long.why) == (
        480,
        "the longest images are 10.00 times as long as short; those of more than 2.00 are shown smaller",
    )


def test_sides_are_counted_whether_images_lie_or_stand(tmp_path: Path):
    """One image of 300 x 100 pixels, one of 100 x 300: none has the 200 x 200 of the median height and width."""
    content = coco_content()
    for image, (width, height) in zip(content["images"], ((300, 100), (100, 300)), strict=True):
        image |= {"width": width, "height": height}
    file = write_coco(tmp_path, content)
    write_image(tmp_path / "a.jpg", 300, 100, value=1)
    write_image(tmp_path / "b.jpg", 100, 300, value=2)
    found, _, _ = look_at(read_table(file)[0], str(file))
    assert (found.short_side, found.long_side, found.stretch) == (100, 300, (3.0, 3.0))
    assert found.image_sides.tolist() == [[100.0, 300.0]] * 3


def test_views_vary_in_size_on_gpus():
    assert rules.jittered(240, CPU) == [240]
    assert rules.jittered(800, GPU) == [640, 680, 720, 760, 800]


def test_the_backbone_follows_the_memory_of_the_smallest_gpu():
    assert rules.backbone(CPU) == rules.backbone(Machine(8, GIB, (4 * GIB,))) == "efficientnet_lite0_fpn"
    assert rules.backbone(GPU) == "resnet50_fpn"


@pytest.mark.parametrize(
    ("labels", "machine", "batch"),
    [(50, CPU, 4), (3, CPU, 3), (50, GPU, 8), (500, GPUS, 32), (10, GPUS, 10), (1, GPUS, 4)],
)
def test_labelled_images_per_step_and_never_less_than_a_worker_needs(labels: int, machine: Machine, batch: int):
    assert rules.labeled_batch(labels, machine) == batch


def test_unlabelled_images_per_step():
    assert rules.unlabeled_batch(4, 200, CPU) == 8 and rules.unlabeled_batch(4, 5, CPU) == 5
    assert rules.unlabeled_batch(8, 200, GPU) == 8


def test_a_step_is_split_where_a_gpu_would_not_hold_it():
    # 24 views x 1.6 GiB = 38.4 GiB of full size; 80 % of 24 GiB are 19.2: two passes; at a quarter of the pixels one
    assert rules.accumulate(24, rules.GPU_PIXELS, GPU) == 2
    assert rules.accumulate(24, rules.GPU_PIXELS / 4, GPU) == 1
    assert rules.accumulate(96, rules.GPU_PIXELS, GPUS) == 2  # 24 on each of four


def test_a_step_is_split_where_main_memory_would_not_hold_it():
    # 16 views x 440,000 pixels x 1,350 bytes = 9.5 GB; 60 % of 8 GiB less 1.1 GiB are 3.97 GB: three passes
    assert rules.accumulate(16, 440_000, Machine(8, 8 * GIB)) == 3
    assert rules.accumulate(16, 440_000, CPUS_16) == 1  # 60 % of 64 GiB
    assert rules.accumulate(16, 110_000, CPU) == 1  # 2.4 of 3.97 GB


def test_views_are_no_larger_than_the_smallest_pass_has_memory_for():
    small = Machine(8, 4 * GIB)  # 60 % of 4 GiB less 1.1 GiB are 1.396 GB: four views of 258,493 pixels
    assert rules.budget(small) == 258_493
    assert rules.short_side(480, 640, 15, small)[0] == 432  # 512 wanted; 258,493 pixels are 440 x 587
    assert rules.short_side(480, 640, 15, small)[1].endswith(
        "more would exceed the 258,493 pixels a view that 4.0 GiB of memory hold"
    )
    assert rules.accumulate(16, 432 * 576, small) == 4  # 16 x 248,832 x 1,350 = 5.4 GB
    assert rules.short_side(480, 640, 15, Machine(8, GIB))[0] == 32  # less than PyTorch itself takes


@pytest.mark.parametrize(
    # 1500 x sqrt(20 / 50) = 949; x sqrt(1206 / 50) = 7,367; COCO: x sqrt(118000 / 50) = 72,870; with 16 a step half
    ("labels", "batch", "steps"),
    [(50, 4, 1500), (20, 4, 1000), (1206, 4, 7400), (118_000, 4, 73_000), (118_000, 16, 36_000)],
)
def test_steps_grow_as_the_square_root_of_the_labels(labels: int, batch: int, steps: int):
    assert rules.steps(labels, batch) == steps


def test_learning_rates():
    assert rules.learning_rate(4, "efficientnet_lite0_fpn") == 5e-4 == rules.learning_rate(1, "efficientnet_lite0_fpn")
    assert rules.learning_rate(16, "resnet50_fpn") == 2e-4
    assert rules.learning_rate(8, "resnet50_fpn") == 1.4e-4  # 2e-4 x sqrt(.5) = 1.41e-4


@pytest.mark.parametrize(("boxes", "rois"), [(0, 64), (1, 64), (32, 64), (33, 128), (100, 256), (5000, 512)])
def test_rois_are_twice_the_boxes_of_a_full_image_as_a_power_of_two(boxes: int, rois: int):
    assert rules.rois(boxes) == rois


def test_proposals_and_detections_hold_the_fullest_image():
    assert (
        rules.proposals(28) == (500, 300) and rules.proposals(90) == (500, 500) and rules.proposals(500) == (1000, 1000)
    )
    assert rules.detections(28) == 100 and rules.detections(101) == 200


def test_the_smallest_boxes_are_a_class_of_five_or_a_tenth_of_all():
    names = ("big", "small", "rare")
    classes = np.array([0] * 15 + [1] * 5 + [2])
    sizes = np.array([100.0] * 15 + [20, 21, 22, 23, 24] + [1])
    # sorted: 1, 20, 21, ...: place 2 of 20 is 21, below the median 22 of `small`
    assert smallest(sizes, classes, names) == ("a tenth of all boxes", 21.0)
    assert smallest(np.array([100.0] * 95 + [20, 21, 22, 23, 24]), np.array([0] * 95 + [1] * 5), names[:2]) == (
        "half of class 'small'",
        22.0,
    )
