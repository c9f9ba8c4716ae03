"""How a classifier's settings follow from its data and the machine. Pure: numbers in, numbers out.

Anchoring point, on two CPU cores: `signdigits` (64 x 64 pixels, seen at 96), 8 labels of each of 10 classes, AdamW at
1e-3: `docs/recipes.md` says what came out.
"""

from __future__ import annotations

import math

from raydet.recipe.machine import Machine
from raydet.recipe.rules import rounded

LEAST_SIZE = 96  # pixels: five halvings leave 3 x 3
LEAST_STEPS, MOST_STEPS = 160, 20_000
R2D2_SHARES = {"burn_in": 0.36, "d2": 0.23, "interval": 0.085, "finetune": 0.07}  # jobs/configs/r2d2_signdigits.yaml


def view_size(side: int, machine: Machine) -> tuple[int, str]:
    """Return the side of the square that the network sees (pixels), for images with a median `side`, and why."""
    most = 224 if not machine.is_cpu else 128 if machine.cpus < 8 else 160
    size = min(most, max(LEAST_SIZE, math.floor(side / 32) * 32))
    why = f"images have sides of {side} pixels (median)"
    if size > side:
        return size, f"{why}; enlarged, since the network halves five times: 3 x 3 cells are left"
    return size, f"{why}; at most {most} on this machine" if size == most < side else why


def crop(side: int, size: int) -> tuple[str, str]:
    """Return how images are cropped, and why."""
    if side >= 1.5 * size:
        return "resized", f"images are {side / size:.1f} times as large as views: random crops, as for ImageNet"
    return "translate", "images are hardly larger than views: moved a little"


def batches(labels: int, unlabeled: int, machine: Machine) -> tuple[int, int]:
    """Return labelled and unlabelled images per step: 16 and 24 on a CPU, 64 and 128 per GPU, if there are so many."""
    one, other = (16, 24) if machine.is_cpu else (64 * machine.gpus, 128 * machine.gpus)
    least = max(1, machine.gpus)
    return max(least, min(one, labels)), max(least, min(other, unlabeled))


def steps(labels: int) -> int:
    """Return the optimiser steps of a run: 160 up to 80 labels, and more as their square root."""
    return rounded(min(MOST_STEPS, max(LEAST_STEPS, 160 * math.sqrt(labels / 80))))


def r2d2_stages(whole: int) -> dict[str, int]:
    """Return the lengths of R2-D2's stages in a run of `whole` steps, in the proportions of the run on `signdigits`."""
    return {name: max(1, round(share * whole)) for name, share in R2D2_SHARES.items()}
