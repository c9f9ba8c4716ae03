"""Which boxes are trained on what: matching to ground truth, and random sampling of foreground and background.

In shapes that do not depend on the data, so that a GPU is waited for once: for how many were drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_iou

from raydet.vision.device import to_device

BACKGROUND, IGNORED = -1, -2  # torchvision's Matcher uses the same numbers


@dataclass(frozen=True, slots=True)
class Matcher:
    """Which box of the ground truth a box belongs to; torchvision's `Matcher` gives the same."""

    fg_iou: float  # at least so much: it belongs to the one that it overlaps most
    bg_iou: float  # less than this: background; between the two: ignored
    gives_each_its_best: bool = False  # the boxes that overlap a true one most belong to the one that they overlap most

    def __call__(self, iou: Tensor) -> Tensor:
        """Return for IoUs `[G, A]`, G > 0, the row of each column, BACKGROUND or IGNORED: `[A]` int64."""
        best, rows = iou.max(dim=0)
        found = torch.where(best < self.fg_iou, IGNORED, rows)
        found = torch.where(best < self.bg_iou, BACKGROUND, found)
        if self.gives_each_its_best:
            found = torch.where((iou == iou.amax(dim=1, keepdim=True)).any(dim=0), rows, found)
        return found


def match(boxes: Tensor, truth: Tensor, matcher: Matcher) -> Tensor:
    """Return for each of `boxes` `[A, 4]` the index of its box in `truth` `[G, 4]`, BACKGROUND or IGNORED: `[A]` int64.

    Without ground truth everything is background: such images train the classifiers and nothing else.
    """
    if len(truth) == 0:
        return torch.full((len(boxes),), BACKGROUND, device=boxes.device)
    return matcher(box_iou(truth, boxes))


def sample(
    matched: Sequence[Tensor],
    number: int,
    positive_fraction: float,
    rngs: Sequence[torch.Generator],
    own: tuple[Tensor, Sequence[int]] | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Draw at most `number` foreground and background indices of each image from the results of `match`, `[A_i]`.

    At most `positive_fraction` are foreground, background fills up. Every box draws a number; of each kind those with
    the highest come out, in that order: any choice is as likely as any other. `own`: which boxes are an image's own,
    `[N, A]` bool, and how many they are; others draw nothing and are not drawn.
    """
    device = matched[0].device
    lengths = [len(each) for each in matched] if own is None else own[1]
    drawn = [torch.rand(length, generator=rng) for length, rng in zip(lengths, rngs, strict=True)]
    keys = to_device(pad_sequence(drawn, batch_first=True), device)
    kinds = pad_sequence(list(matched), batch_first=True, padding_value=IGNORED)
    if own is not None:
        keys = keys.gather(1, (own[0].cumsum(dim=1) - 1).clamp(min=0))  # the numbers of own boxes, in their order
        kinds = torch.where(own[0], kinds, IGNORED)
    positive, negative = kinds >= 0, kinds == BACKGROUND
    most = int(number * positive_fraction)
    foreground, background = _highest(keys, positive, most), _highest(keys, negative, number)
    found = []
    counts = torch.stack([positive.sum(dim=1), negative.sum(dim=1)], dim=1).tolist()
    for i, (num_positive, num_negative) in enumerate(counts):
        num_fg = min(num_positive, most)
        found.append((foreground[i, :num_fg], background[i, : min(num_negative, number - num_fg)]))
    return found


def _highest(keys: Tensor, among: Tensor, number: int) -> Tensor:
    """Return the places of the `number` highest keys in each row `[N, A]`; those of `among` come first."""
    return torch.where(among, keys, -1.0).topk(min(number, keys.shape[1]), dim=1).indices
