"""Which boxes are trained on what: matching to ground truth, and random sampling of foreground and background."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

BACKGROUND, IGNORED = -1, -2  # torchvision's Matcher uses the same numbers


def match(boxes: Tensor, truth: Tensor, matcher: Matcher) -> Tensor:
    """Return for each of `boxes` `[A, 4]` the index of its box in `truth` `[G, 4]`, BACKGROUND or IGNORED: `[A]` int64.

    Without ground truth everything is background: such images train the classifiers and nothing else.
    """
    if len(truth) == 0:
        return torch.full((len(boxes),), BACKGROUND, device=boxes.device)
    matched: Tensor = matcher(box_iou(truth, boxes))
    return matched


def sample(matched: Tensor, number: int, positive_fraction: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw at most `number` foreground and background indices from the result of `match`.

    At most `positive_fraction` are foreground, background fills up. The draws are those of torchvision's sampler: one
    permutation of the foreground, then one of the background.
    """
    positive = torch.where(matched >= 0)[0]
    negative = torch.where(matched == BACKGROUND)[0]
    num_positive = min(len(positive), int(number * positive_fraction))
    num_negative = min(len(negative), number - num_positive)
    return _draw(positive, num_positive, rng), _draw(negative, num_negative, rng)


def _draw(indices: Tensor, number: int, rng: torch.Generator) -> Tensor:
    order = torch.randperm(len(indices), generator=rng, device=rng.device)[:number]
    return indices[order.to(indices.device)]
