"""Anchors from box sizes, and which share of the boxes they reach.

An anchor of size s and ratio r is s / sqrt(r) wide and s * sqrt(r) high, and stands on every cell of its level's grid.
Sizes are chosen on the labelled boxes as the network will see them; so is the recall that is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raydet.config.backbone import AnchorSizes, default_anchors
from raydet.families.detection.recipe.facts import Floats, sizes_of

RATIOS = (0.5, 1.0, 2.0)
MOST_BOXES = 20_000  # that are compared with the anchors, evenly spaced
BETTER = 0.02  # of recall: less is no reason for more anchors, nor to leave the defaults


@dataclass(frozen=True, slots=True)
class Anchors:
    """Sizes per level and ratios, with the recall at IoU .5 and .7 of the best anchor."""

    sizes: AnchorSizes
    ratios: tuple[float, ...]
    recall: tuple[float, float]
    origin: str  # how they were found


def recall(boxes: Floats, strides: Sequence[int], sizes: AnchorSizes, ratios: Sequence[float]) -> tuple[float, float]:
    """Return the share of `boxes` `[B, 4]` (xyxy, pixels of the view) whose best anchor has an IoU of .5, and of .7.

    Anchors stand where the network has them: around multiples of the stride, with sides rounded as torchvision does.
    """
    best = np.zeros(len(boxes))
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    for stride, level in zip(strides, sizes, strict=True):
        off = np.abs(centre - np.round(centre / stride) * stride)  # [B, 2] to the nearest cell
        for size in level:
            for ratio in ratios:
                half_w, half_h = np.round(size / np.sqrt(ratio) / 2), np.round(size * np.sqrt(ratio) / 2)
                best = np.maximum(best, _iou(width, height, off, 2 * half_w, 2 * half_h))
    return float((best >= 0.5).mean()), float((best >= 0.7).mean())


def _iou(width: Floats, height: Floats, off: Floats, anchor_width: float, anchor_height: float) -> Floats:
    """Return the IoU `[B]` of boxes with one anchor each, whose centre is `off` `[B, 2]` away."""
    across = np.clip((width + anchor_width) / 2 - off[:, 0], 0, np.minimum(width, anchor_width))
    along = np.clip((height + anchor_height) / 2 - off[:, 1], 0, np.minimum(height, anchor_height))
    common = across * along
    iou: Floats = common / (width * height + anchor_width * anchor_height - common)
    return iou


def spread(sizes: Floats, count: int) -> Floats:
    """Return `count` sizes at equal ratios from the 2nd to the 98th hundredth of the boxes."""
    low, high = np.percentile(sizes, [2, 98])
    return np.geomspace(low, max(high, 1.2 * low), count)


def clustered(sizes: Floats, count: int, rounds: int = 50) -> Floats:
    """Return `count` sizes by k-means of the logarithms, started from equal shares of the boxes; ascending."""
    logs = np.sort(np.log(sizes))
    centres = np.quantile(logs, (np.arange(count) + 0.5) / count)
    for _ in range(rounds):
        nearest = np.abs(logs[:, None] - centres[None]).argmin(axis=1)
        moved = np.array([logs[nearest == k].mean() if (nearest == k).any() else centres[k] for k in range(count)])
        if np.allclose(moved, centres):
            break
        centres = moved
    ascending: Floats = np.exp(np.sort(centres))
    return ascending


def box_ratios(boxes: Floats) -> tuple[float, float, float]:
    """Return three values of height / width: the middles of three equal shares of the boxes."""
    logs = np.log((boxes[:, 3] - boxes[:, 1]) / (boxes[:, 2] - boxes[:, 0]))
    low, middle, high = np.exp(np.quantile(logs, [1 / 6, 1 / 2, 5 / 6])).round(2)
    return float(low), float(middle), float(high)


def shared_out(sizes: Floats, strides: Sequence[int]) -> AnchorSizes:
    """Return ascending sizes as whole pixels, equally many per level, and none below its level's stride."""
    each = len(sizes) // len(strides)
    levels = []
    for number, stride in enumerate(strides):
        own = sizes[number * each : (number + 1) * each]
        levels.append(tuple(float(max(stride, round(float(size)))) for size in own))
    return tuple(levels)


def choose(boxes: Floats, strides: Sequence[int]) -> tuple[Anchors, Anchors]:
    """Return the anchors to use and the defaults, for `boxes` `[B, 4]` in pixels of the view.

    Tried are one to three sizes per level, at equal ratios and by k-means, with the usual ratios and the boxes' own. Of
    all whose sum of both recalls comes within .02 per recall of the best one's, the fewest anchors win; of equally
    many the defaults, then the better ones.
    """
    boxes = boxes[:: -(-len(boxes) // MOST_BOXES)]
    usual = default_anchors(tuple(strides))
    defaults = Anchors(usual, RATIOS, recall(boxes, strides, usual, RATIOS), "the defaults")
    sizes = sizes_of(boxes)
    found = [defaults]
    for count in (len(strides) * each for each in (1, 2, 3)):
        for way, levels in (
            ("at equal ratios", shared_out(spread(sizes, count), strides)),
            ("by k-means", shared_out(clustered(sizes, count), strides)),
        ):
            for ratios in {RATIOS, box_ratios(boxes)}:
                if len(set(ratios)) == len(ratios):
                    found.append(Anchors(levels, ratios, recall(boxes, strides, levels, ratios), way))
    return fewest(found), defaults


def fewest(found: Sequence[Anchors]) -> Anchors:
    """Return the choice of `choose` among anchors, of which the first are the defaults."""
    best = max(sum(each.recall) for each in found)
    good = [each for each in found if sum(each.recall) >= best - 2 * BETTER]
    least = min(len(each.sizes[0]) for each in good)
    good = [each for each in good if len(each.sizes[0]) == least]
    return found[0] if found[0] in good else max(good, key=lambda each: sum(each.recall))
