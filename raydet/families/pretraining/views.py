"""The three views of an image and the boxes that all of them show (ADePT, Section 4.1.2; SoCo, Section 3).

V1 is the whole image, V2 a crop of it, V3 a smaller V2 or another crop; each is squeezed to a square, flipped, and
recoloured as in BYOL. Boxes stay in order: row k of every view is the same object, whatever its size there. Every draw
comes from the generator given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from raydet.config.proposal_data import ProposalViewsConfig
from raydet.families.pretraining.photometrics import recoloured
from raydet.vision.geometry import View, box_areas, clip_boxes

MIN_SIDE_PX = 1.0  # of a view: a smaller box shows nothing
NUM_VIEWS = 3
WHOLE_VIEW = 1  # the id of the box that a view gets where no proposal is left


@dataclass(frozen=True, slots=True, eq=False)
class ThreeViews:
    """One image in three views, with K boxes each."""

    pixels: tuple[Tensor, Tensor, Tensor]  # [3, S, S] uint8, V3 smaller
    boxes: Tensor  # [3, K, 4] float32 xyxy, pixels of each view, clipped to it
    ids: Tensor  # [K] int64: which proposals, counted from 1; those that had to be repeated are there several times
    views: tuple[View, View, View]  # original -> view
    is_fallback: bool  # the image has no proposals, or none that is in all views: whole views count as one box


def three_views(
    pixels: Tensor, proposals: Tensor, config: ProposalViewsConfig, num_boxes: int, rng: torch.Generator
) -> ThreeViews:
    """Return the views of `pixels` `[3, H, W]` uint8 with `num_boxes` of its `proposals` `[P, 4]` (original pixels)."""
    height, width = int(pixels.shape[1]), int(pixels.shape[2])
    views, seen = _crops(height, width, proposals, config, num_boxes, rng)
    views = _flipped(views, config, rng)
    is_fallback = not len(seen)
    if is_fallback:
        ids = torch.full((num_boxes,), WHOLE_VIEW)
        boxes = torch.stack([_whole(view).expand(num_boxes, 4) for view in views])
    else:
        rows = _chosen(seen, num_boxes, rng)
        ids = rows + 1
        boxes = torch.stack([_inside(proposals[rows], view) for view in views])
    shown = [made(pixels, view) for view in views]
    boxes[0] = jittered(boxes[0], views[0], config, rng)
    for number in range(NUM_VIEWS):
        shown[number] = recoloured(shown[number], config, number, rng)
    for number in (1, 2):
        shown[number] = cut_out(shown[number], boxes[number], config, rng)
    return ThreeViews((shown[0], shown[1], shown[2]), boxes, ids, views, is_fallback)


def plain_view(pixels: Tensor, size: int) -> tuple[Tensor, View]:
    """Return the whole image squeezed to a square, `[3, size, size]` uint8, and how to get there: what is measured."""
    view = View.identity(int(pixels.shape[1]), int(pixels.shape[2])).resized(size, size)
    return made(pixels, view), view


def crop_box(
    height: int, width: int, area: tuple[float, float], aspect: tuple[float, float], rng: torch.Generator
) -> tuple[int, int, int, int]:
    """Draw a crop `(top, left, height, width)` of an image: a share of its area, width / height log-uniform.

    One that does not fit is drawn again, ten times; then it is the largest one in the middle of a fit shape.
    """
    for _ in range(10):
        drawn = torch.rand(4, generator=rng, dtype=torch.float64).tolist()
        size = height * width * (area[0] + (area[1] - area[0]) * drawn[0])
        low, high = math.log(aspect[0]), math.log(aspect[1])
        ratio = math.exp(low + (high - low) * drawn[1])
        w, h = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(drawn[2] * (height - h + 1)), int(drawn[3] * (width - w + 1)), h, w
    w, h = min(width, max(1, round(height * aspect[1]))), min(height, max(1, round(width / aspect[0])))
    return (height - h) // 2, (width - w) // 2, h, w


def jittered(boxes: Tensor, view: View, config: ProposalViewsConfig, rng: torch.Generator) -> Tensor:
    """Move and resize boxes `[K, 4]` of a view, each with probability `box_jitter`, by up to `box_jitter_ratio` of
    their sides (SoCo); one that would lose its inside stays."""
    drawn = torch.rand(len(boxes), 5, generator=rng, dtype=torch.float64).float()
    if not config.box_jitter:
        return boxes
    by = (2 * drawn[:, 1:] - 1) * config.box_jitter_ratio
    sides = boxes[:, 2:] - boxes[:, :2]
    low = boxes[:, :2] + by[:, :2] * sides
    moved = clip_boxes(torch.cat([low, low + (1 + by[:, 2:]) * sides], dim=1), view.height, view.width)
    is_moved = (drawn[:, 0] < config.box_jitter) & _is_seen(moved)
    return torch.where(is_moved[:, None], moved, boxes)


def cut_out(pixels: Tensor, boxes: Tensor, config: ProposalViewsConfig, rng: torch.Generator) -> Tensor:
    """Return a view `[3, S, S]` uint8 with a black square inside some of its boxes `[K, 4]`, each with probability
    `box_cutout` (SoCo)."""
    drawn = torch.rand(len(boxes), 4, generator=rng, dtype=torch.float64)
    if not config.box_cutout:
        return pixels
    pixels = pixels.clone()
    low, high = config.box_cutout_area
    for box, (happens, area, x, y) in zip(boxes.tolist(), drawn.tolist(), strict=True):
        x1, y1, x2, y2 = box
        side = min(math.sqrt((low + (high - low) * area) * (x2 - x1) * (y2 - y1)), x2 - x1, y2 - y1)
        if happens < config.box_cutout:
            left, top = x1 + x * (x2 - x1 - side), y1 + y * (y2 - y1 - side)
            pixels[:, round(top) : round(top + side), round(left) : round(left + side)] = 0
    return pixels


def made(pixels: Tensor, view: View) -> Tensor:
    """Return the pixels of a view that crops, resizes and flips: `[3, view.height, view.width]` uint8."""
    a, _, tx, _, d, ty = view.matrix
    # Where the view's left and right, upper and lower edges are in the original.
    xs, ys = sorted((-tx / a, (view.width - tx) / a)), sorted((-ty / d, (view.height - ty) / d))
    left, right, top, bottom = (round(value) for value in (*xs, *ys))
    cut = pixels[:, top:bottom, left:right]
    resized: Tensor = F.resize(cut, [view.height, view.width], antialias=True)
    turned = [axis for axis, scale in ((2, a), (1, d)) if scale < 0]
    return (resized.flip(turned) if turned else resized).contiguous()


def _crops(
    height: int, width: int, proposals: Tensor, config: ProposalViewsConfig, num_boxes: int, rng: torch.Generator
) -> tuple[tuple[View, View, View], Tensor]:
    """Draw the crops until they show enough boxes; return the views, unflipped, and the rows of the boxes in them."""
    whole = View.identity(height, width)
    best: tuple[tuple[View, View, View], Tensor] | None = None
    for _ in range(config.crop_tries):
        crops = [_cropped(whole, config, rng)]
        crops.append(crops[0] if config.v3_mode == "downsample_v2" else _cropped(whole, config, rng))
        views = (
            whole.resized(config.size, config.size),
            crops[0].resized(config.size, config.size),
            crops[1].resized(config.small_size, config.small_size),
        )
        is_seen = torch.stack([_is_seen(_inside(proposals, view)) for view in views]).all(dim=0)
        rows = torch.where(is_seen)[0]
        if best is None or len(rows) > len(best[1]):
            best = (views, rows)
        if len(rows) >= min(num_boxes, len(proposals)):
            break
    assert best is not None
    return best


def _cropped(whole: View, config: ProposalViewsConfig, rng: torch.Generator) -> View:
    return whole.cropped(*crop_box(whole.height, whole.width, config.crop_area, config.crop_aspect, rng))


def _flipped(
    views: tuple[View, View, View], config: ProposalViewsConfig, rng: torch.Generator
) -> tuple[View, View, View]:
    flips = (torch.rand(NUM_VIEWS, generator=rng, dtype=torch.float64) < config.horizontal_flip).tolist()
    if config.v3_mode == "downsample_v2":
        flips[2] = flips[1]
    first, second, third = (view.flipped(horizontal=flip) for view, flip in zip(views, flips, strict=True))
    return first, second, third


def _chosen(rows: Tensor, num_boxes: int, rng: torch.Generator) -> Tensor:
    """Draw `num_boxes` of `rows` `[N]`, N >= 1, without replacement; where there are too few, some again."""
    order = rows[torch.randperm(len(rows), generator=rng)]
    more = torch.randint(0, len(rows), (max(0, num_boxes - len(rows)),), generator=rng)
    return torch.cat([order[:num_boxes], rows[more]])


def _inside(boxes: Tensor, view: View) -> Tensor:
    return clip_boxes(view.to_view(boxes), view.height, view.width)


def _is_seen(boxes: Tensor) -> Tensor:
    sides = boxes[:, 2:] - boxes[:, :2]
    return (sides >= MIN_SIDE_PX).all(dim=1) & (box_areas(boxes) > 0)


def _whole(view: View) -> Tensor:
    return torch.tensor([[0.0, 0.0, view.width, view.height]])
