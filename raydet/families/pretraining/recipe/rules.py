"""How a pre-training run's settings follow from its images and the machine. Pure: numbers in, numbers out.

Anchoring points: on two CPU cores `jobs/configs/adept_cards.yaml` (251 images, views of 128 pixels, 300 steps of 16);
on GPUs the paper's run on ImageNet-1k (views of 224 pixels, 2,048 images on 8 GPUs of 32 GB, 100 epochs).
"""

from __future__ import annotations

import math

from raydet.recipe.machine import GIB, Machine
from raydet.recipe.rules import rounded

LEAST_SIZE = 64  # pixels: two cells of stride 32
CPU_STEPS, CPU_IMAGES = 300, 251
EPOCHS, LEAST_STEPS, MOST_STEPS = 100, 300, 62_500
LARS_FROM = 1_024  # images a step: below, plain SGD does as well and has one setting less to go wrong


def view_size(side: int, machine: Machine) -> tuple[int, str]:
    """Return the side of the first two views (pixels), for images with a median shorter `side`, and why."""
    most = 224 if not machine.is_cpu else 128 if machine.cpus < 8 else 160
    size = min(most, max(LEAST_SIZE, math.floor(side / 32) * 32))
    why = f"the images' shorter sides have {side} pixels (median)"
    return size, f"{why}; at most {most} on this machine" if size == most < side else why


def batch(images: int, machine: Machine) -> int:
    """Return images per step: 16 on a CPU, 8 for each GiB of a GPU, a power of two, if there are so many."""
    if machine.is_cpu:
        return max(2, min(16, images))
    each = 1 << int(math.log2(max(2, 8 * min(machine.gpu_bytes) / GIB)))
    return max(2 * machine.gpus, min(each * machine.gpus, images))


def steps(images: int, batch: int, machine: Machine) -> int:
    """Return the length: 100 epochs on GPUs; on a CPU the anchoring point's, more as the square root of the images."""
    wanted = CPU_STEPS * math.sqrt(images / CPU_IMAGES) if machine.is_cpu else EPOCHS * images / batch
    return rounded(min(MOST_STEPS, max(LEAST_STEPS, wanted)))


def anchors(size: int) -> tuple[list[list[int]], list[int]]:
    """Return anchor sizes of three levels and the box sides that part them (pixels): 24, 48, 96 and 48, 96 at 128."""
    return [[round(share * size / 128)] for share in (24, 48, 96)], [round(share * size / 128) for share in (48, 96)]
