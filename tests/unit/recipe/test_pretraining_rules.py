"""What `raydet init` chooses for pre-training, in numbers."""

from __future__ import annotations

import pytest

from raydet.families.pretraining.recipe import rules
from raydet.recipe.machine import GIB, Machine

TWO_CORES = Machine(cpus=2, memory_bytes=8 * GIB)
EIGHT_CORES = Machine(cpus=8, memory_bytes=8 * GIB)
GPU = Machine(cpus=8, memory_bytes=64 * GIB, gpu_bytes=(24 * GIB,))
PAPER = Machine(cpus=64, memory_bytes=256 * GIB, gpu_bytes=(32 * GIB,) * 8)


@pytest.mark.parametrize(
    ("side", "machine", "size"),
    # in steps of 32, at least 64; at most 128 with few cores, 160 with eight, 224 on a GPU
    [(300, TWO_CORES, 128), (300, EIGHT_CORES, 160), (300, GPU, 224), (100, GPU, 96), (40, GPU, 64)],
)
def test_views_are_as_large_as_images_and_machine_allow(side: int, machine: Machine, size: int):
    assert rules.view_size(side, machine)[0] == size


@pytest.mark.parametrize(
    ("images", "machine", "batch"),
    # 16 on a CPU; 8 a GiB, rounded down to a power of two: 24 GiB take 128, eight of 32 GiB the paper's 2,048
    [(1_206, TWO_CORES, 16), (5, TWO_CORES, 5), (10_000, GPU, 128), (1_281_167, PAPER, 2_048), (3, PAPER, 16)],
)
def test_images_per_step(images: int, machine: Machine, batch: int):
    assert rules.batch(images, machine) == batch


@pytest.mark.parametrize(
    ("images", "batch", "machine", "steps"),
    # 300 for 251 images on a CPU; four times the images: twice the steps. On GPUs 100 epochs:
    # 100 x 10,000 / 128 = 7,812; 100 x 1,281,167 / 2,048 = 62,557, at most the paper's 62,500. Two digits count
    [
        (251, 16, TWO_CORES, 300),
        (1_004, 16, TWO_CORES, 600),
        (10, 10, TWO_CORES, 300),
        (10_000, 128, GPU, 7_800),
        (1_281_167, 2_048, PAPER, 62_000),
    ],
)
def test_lengths(images: int, batch: int, machine: Machine, steps: int):
    assert rules.steps(images, batch, machine) == steps


def test_anchors_grow_with_the_views():
    assert rules.anchors(128) == ([[24], [48], [96]], [48, 96])
    assert rules.anchors(160) == ([[30], [60], [120]], [60, 120])
