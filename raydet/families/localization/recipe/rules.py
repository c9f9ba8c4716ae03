"""How a localizer's settings follow from its data and the machine. Pure: numbers in, numbers out.

Anchoring points: on two CPU cores `jobs/configs/lchp_foda.yaml` (720 images, 160 pixels, 450 + 225 steps of 16), on a
GPU the paper's CUB-200-2011 (5,994 images, 448 pixels, 7,492 + 7,492 steps of 32).
"""

from __future__ import annotations

import math

from raydet.recipe.machine import Machine
from raydet.recipe.rules import rounded

LEAST_SIZE = 96  # pixels: at stride 16 six cells on a side
LEAST_STEPS, MOST_STEPS = 60, 40_000  # of the first stage


def view_size(side: int, machine: Machine) -> tuple[int, str]:
    """Return the side of the square that the networks see (pixels), for images with a median `side`, and why."""
    most = 448 if not machine.is_cpu else 160 if machine.cpus < 8 else 224
    size = min(most, max(LEAST_SIZE, math.floor(side / 32) * 32))
    why = f"images have sides of {side} pixels (median)"
    return size, f"{why}; at most {most} on this machine" if size == most < side else why


def resize(size: int) -> int:
    """Return the side that images are squeezed to before `size` is cut out: 448 of 512, and so in proportion."""
    return round(size * 512 / 448 / 8) * 8


def batch(labels: int, machine: Machine) -> int:
    """Return images per step: 16 on a CPU, 32 per GPU, if there are so many."""
    most = 16 if machine.is_cpu else 32 * machine.gpus
    return max(1, machine.gpus, min(most, labels))


def steps(labels: int, machine: Machine) -> int:
    """Return the steps of the first stage: the anchoring point's, more as the square root of the labels."""
    known, images = (450, 720) if machine.is_cpu else (7_492, 5_994)
    return rounded(min(MOST_STEPS, max(LEAST_STEPS, known * math.sqrt(labels / images))))
