"""What `raydet init` chooses for a localizer, in numbers."""

from __future__ import annotations

import pytest

from raydet.families.localization.recipe import rules
from raydet.recipe.machine import GIB, Machine

TWO_CORES = Machine(cpus=2, memory_bytes=8 * GIB)
EIGHT_CORES = Machine(cpus=8, memory_bytes=8 * GIB)
GPU = Machine(cpus=8, memory_bytes=64 * GIB, gpu_bytes=(24 * GIB,))
FOUR_GPUS = Machine(cpus=32, memory_bytes=64 * GIB, gpu_bytes=(24 * GIB,) * 4)


@pytest.mark.parametrize(
    ("side", "machine", "size"),
    # in steps of 32, at least 96; at most 160 with few cores, 224 with eight, 448 on a GPU
    [(300, TWO_CORES, 160), (300, EIGHT_CORES, 224), (300, GPU, 288), (500, GPU, 448), (64, GPU, 96), (150, GPU, 128)],
)
def test_views_are_as_large_as_images_and_machine_allow(side: int, machine: Machine, size: int):
    assert rules.view_size(side, machine)[0] == size


def test_the_reason_names_the_images_and_what_limits_them():
    assert rules.view_size(300, TWO_CORES)[1] == "images have sides of 300 pixels (median); at most 160 on this machine"
    assert rules.view_size(160, TWO_CORES)[1] == "images have sides of 160 pixels (median)"


@pytest.mark.parametrize(("size", "resize"), [(448, 512), (160, 184), (96, 112)])  # times 8 / 7, in steps of 8
def test_images_are_squeezed_in_the_published_ratio(size: int, resize: int):
    assert rules.resize(size) == resize


@pytest.mark.parametrize(
    ("labels", "machine", "batch"),
    [(720, TWO_CORES, 16), (9, TWO_CORES, 9), (5_994, GPU, 32), (5_994, FOUR_GPUS, 128), (2, FOUR_GPUS, 4)],
)
def test_images_per_step_and_never_less_than_a_worker_needs(labels: int, machine: Machine, batch: int):
    assert rules.batch(labels, machine) == batch


@pytest.mark.parametrize(
    ("labels", "machine", "steps"),
    # 450 for 720 images on a CPU, 7,492 for 5,994 on a GPU; four times the images: twice the steps; two digits count
    [
        (720, TWO_CORES, 450),
        (2_880, TWO_CORES, 900),
        (5_994, GPU, 7_500),
        (9, TWO_CORES, 60),
        (1_300_000, GPU, 40_000),
    ],
)
def test_steps_grow_as_the_square_root_of_the_images(labels: int, machine: Machine, steps: int):
    assert rules.steps(labels, machine) == steps
