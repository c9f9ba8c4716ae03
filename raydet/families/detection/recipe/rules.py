"""How a detector's settings follow from its data and the machine. Pure: numbers in, numbers out.

Anchoring points, measured on two CPU cores with `efficientnet_lite0_fpn`: 240 x 320 pixels, 4 labelled images a step,
AdamW at 5e-4, an average with a keep rate of .99; with 50 labels AP still rises after 1,400 steps (`docs/recipes.md`).
"""

from __future__ import annotations

import math

from raydet.config.backbone import EFFICIENTNET, default_strides
from raydet.recipe.machine import GIB, Machine
from raydet.recipe.rules import rounded
from raydet.text import plural

LEAST_BOX = 16  # pixels of a view: two cells of the finest level, stride 8
USUAL_SHORT = 240  # pixels of the short side that two cores train on; classes differ in finer detail than their boxes
CPU_PIXELS = 110_000  # of a view, for two cores: 0.17 CPU-seconds forward and backward
WORTH = 1.25  # images are not enlarged by less: that would only blur them
MOST_CORES = 8  # that are counted on for larger views
CPU_VIEW_BYTES = 1350  # per pixel of each view of a pass, fp32: in all 2.6 GiB for 16 of 240 x 320, 7.2 for 480 x 640
CPU_BASE = 1.1 * GIB  # of a process that trains, whatever its views: PyTorch, weights, averages, moments
CPU_SHARE = 0.6  # of the machine's memory: it does other things, too
LEAST_VIEWS = 4  # of a pass: a labelled image as two views, and two unlabelled ones
GPU_SHORT, GPU_PIXELS = 800, 800 * 1333  # the papers' views
GPU_VIEW_BYTES = 1.6 * GIB  # of such a view in bf16, ResNet-50, activations: an estimate, not measured
LEAST_STEPS, MOST_STEPS = 1000, 90_000
GPU_LEAST_MEMORY = 6 * GIB


def budget(machine: Machine) -> int:
    """Return how many pixels a view may have: the papers' on GPUs; else in proportion to the cores, from two to eight,
    and no more than memory holds of the smallest pass.
    """
    if not machine.is_cpu:
        return GPU_PIXELS
    return min(_by_cores(machine), max(LEAST_BOX**2, int(_for_views(machine) / (LEAST_VIEWS * CPU_VIEW_BYTES))))


def _by_cores(machine: Machine) -> int:
    return CPU_PIXELS * min(MOST_CORES, max(2, machine.cpus)) // 2


def _for_views(machine: Machine) -> float:
    """Return the bytes of main memory that the views of one pass may take."""
    return CPU_SHARE * machine.memory_bytes - CPU_BASE


def short_side(short: int, long: int, small_box: float, machine: Machine) -> tuple[int, str]:
    """Return the short side of a view (pixels) for images of `short` x `long`, and why.

    `small_box`: size of the small boxes in original pixels. On a CPU as small as they allow, on GPUs as the images are.
    Images are enlarged, at most to twice their size, only where small boxes need that.
    """
    most = math.sqrt(budget(machine) * short / long)
    needed = math.ceil(short * LEAST_BOX / small_box)
    if machine.is_cpu:
        wanted = min(max(USUAL_SHORT, needed), short)
        given = f"{plural(machine.cpus, 'core is', 'cores are')} given"
        if budget(machine) < _by_cores(machine):
            given = f"{machine.memory_bytes / GIB:.1f} GiB of memory hold"
        limit = f"the {budget(machine):,} pixels a view that {given}"
    else:
        wanted = min(GPU_SHORT, short)
        limit = f"the papers' {budget(machine):,} pixels a view"
    if needed > WORTH * short:
        wanted = min(needed, 2 * short)
    side = min(wanted, most)
    side = short if short <= side < WORTH * short else max(32, math.floor(side / 16) * 16)
    seen = small_box * side / short
    why = f"images have {short} x {long} pixels; small boxes have {seen:.0f} pixels then (wanted: {LEAST_BOX})"
    if most < wanted:
        why += f"; more would exceed {limit}"
    elif side == short:
        why += "; the images' own size"
    return side, why


def strides(name: str, small_seen: float) -> tuple[int, ...]:
    """Return the pyramid's levels: one finer than usual where small boxes, in pixels of the view, need it."""
    usual = default_strides(name)
    return (4, *usual) if usual[0] == 8 and small_seen < 0.75 * LEAST_BOX else usual


def most_stretch(usual: float) -> float:
    """Return how many times as long as short a view may be: twice, and as much as the median image, for which
    `short_side` was chosen.
    """
    return max(2.0, usual)


def long_side(short: int, usual: float, stretch: float) -> int:
    """Return the most of a long side: that of the longest of a hundred images, as far as `most_stretch` allows.

    `usual` and `stretch`: long side / short side of the median image, and of the longest of a hundred.
    """
    return math.ceil(short * min(most_stretch(usual), stretch) / 16) * 16


def jittered(short: int, machine: Machine) -> list[int]:
    """Return the short sides of training views: one on a CPU; five on GPUs, in the papers' ratio of 640 to 800."""
    if machine.is_cpu:
        return [short]
    return [round(short * share / 8) * 8 if share < 1 else short for share in (0.8, 0.85, 0.9, 0.95, 1.0)]


def backbone(machine: Machine) -> str:
    """Return the backbone: the one that comes with its weights, or where GPUs have the memory ResNet-50."""
    return EFFICIENTNET if machine.is_cpu or min(machine.gpu_bytes) < GPU_LEAST_MEMORY else "resnet50_fpn"


def labeled_batch(labels: int, machine: Machine) -> int:
    """Return labelled images per step: 4 on a CPU, 8 per GPU up to 32, and no more than there are."""
    wanted = 4 if machine.is_cpu else min(32, 8 * machine.gpus)
    return max(machine.gpus, min(wanted, labels))


def unlabeled_batch(labeled: int, unlabeled: int, machine: Machine) -> int:
    """Return unlabelled images per step: as many as labelled views on a CPU, as labelled images on GPUs."""
    return max(machine.gpus, min(2 * labeled if machine.is_cpu else labeled, unlabeled))


def accumulate(views: int, pixels: float, machine: Machine) -> int:
    """Return into how many passes a step of `views` views is split, for the memory of a GPU or of the machine."""
    if machine.is_cpu:
        need, have = views * pixels * CPU_VIEW_BYTES, max(1.0, _for_views(machine))
    else:
        need, have = views / machine.gpus * GPU_VIEW_BYTES * pixels / GPU_PIXELS, 0.8 * min(machine.gpu_bytes)
    return max(1, math.ceil(need / have))


def steps(labels: int, batch: int) -> int:
    """Return the optimiser steps of a run: 1,500 for 50 labels and 4 images a step, else as the labels' square root.

    That meets COCO's usual 90,000 near its 118,000 images. Larger batches need fewer, as their square root.
    """
    wanted = 1500 * math.sqrt(labels / 50) * math.sqrt(4 / batch)
    return rounded(min(MOST_STEPS, max(LEAST_STEPS, wanted)))


def learning_rate(batch: int, backbone: str) -> float:
    """Return AdamW's rate: 5e-4 for 4 images of EfficientNet-Lite0, 2e-4 for 16 of a ResNet, as their square root.

    The first was measured here; the second is what MMDetection's `resnet_strikes_back` configurations use.
    """
    rate, images = (5e-4, 4) if backbone == EFFICIENTNET else (2e-4, 16)
    return float(f"{rate * math.sqrt(max(1.0, batch / images) if backbone == EFFICIENTNET else batch / images):.1e}")


def rois(boxes_per_image: int) -> int:
    """Return how many RoIs are sampled per image: a power of two, twice the boxes of a full image, 64 to 512."""
    return min(512, max(64, 1 << math.ceil(math.log2(2 * max(1, boxes_per_image)))))


def proposals(most_boxes: int) -> tuple[int, int]:
    """Return proposals before (per level) and after NMS: 500 and 300, more where an image has more than 60 boxes."""
    after = min(1000, max(300, math.ceil(5 * most_boxes / 100) * 100))
    return min(2000, max(500, after)), after


def detections(most_boxes: int) -> int:
    """Return the most detections per image: 100, or the next hundred that holds every box of the fullest image."""
    return max(100, math.ceil(most_boxes / 100) * 100)
