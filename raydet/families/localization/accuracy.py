"""How often a box, and a box and its class, are right. Boxes are xyxy in shares of the test view; IoU is continuous."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from raydet.text import percent, plural
from raydet.vision.geometry import box_areas

LEVELS = (0.3, 0.5, 0.7)  # of IoU, at which MaxBoxAcc is measured
RIGHT = 0.5  # IoU at which a box counts as right: that much or more
WHOLE = "whole_image"
CENTRE = "centre_box"
MEAN = "mean_box"
TRIVIAL: dict[str, tuple[float, float, float, float]] = {
    WHOLE: (0.0, 0.0, 1.0, 1.0),
    CENTRE: (0.25, 0.25, 0.75, 0.75),  # half as wide and high as the view
}
"""Boxes that no network is needed for; `mean_box`, that of the training images' true boxes, is known where they are."""


def best_ious(boxes: Tensor, truths: Sequence[Tensor]) -> Tensor:
    """Return for boxes `[B, T, 4]` the IoU `[B, T]` with the best of each image's true boxes `[n, 4]`.

    0 where an image has none, or none with an inside.
    """
    found = boxes.new_zeros(boxes.shape[:2])
    for row, true in enumerate(truths):
        if len(true):
            found[row] = pairwise_iou(boxes[row], true.to(boxes)).amax(dim=1)
    return found


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the IoU `[N, M]` of each of `[N, 4]` with each of `[M, 4]`; 0 where one of them has no inside."""
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = (high - low).clamp(min=0).prod(dim=2)
    union = box_areas(boxes)[:, None] + box_areas(others)[None] - both
    return torch.where(both > 0, both / union.clamp(min=torch.finfo(boxes.dtype).tiny), torch.zeros_like(both))


def class_ranks(logits: Tensor, classes: Tensor) -> Tensor:
    """Return how many classes score higher than the true one, `[B]`, for logits `[B, N]`.

    Raises ValueError where logits are not finite: no class of such an image is the best.
    """
    if not bool(logits.isfinite().all()):
        raise ValueError("logits contain NaN or infinity; the model has probably diverged")
    return (logits > logits.gather(1, classes[:, None])).sum(dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """What a part of the images gave; parts add up. T boxes per image, by as many thresholds of a map."""

    images: int  # with a class
    in_top1: int
    in_top5: int
    located: int  # images with a true box: all that follows is about those
    right: Tensor  # [T, levels] int64
    own_right: int  # by the method's own threshold, as all that follows
    top1_right: int  # box and class
    top5_right: int
    iou: float  # sum
    area: float  # sum of shares of the view
    others: dict[str, int]  # trivial boxes and pseudo-boxes -> how many are right; a part without images may lack some

    @staticmethod
    def of(
        ious: Tensor, areas: Tensor, ranks: Tensor, has_truth: Tensor, own: int, others: Mapping[str, Tensor]
    ) -> Counts:
        """Count IoUs `[B, T]`, areas `[B]`, class ranks `[B]` and IoUs of other boxes `[B]` of images, of which
        `has_truth` `[B]` have a true box; `own` is the place of the method's own threshold."""
        is_right = (ious[:, own] >= RIGHT) & has_truth
        levels = torch.tensor(LEVELS, dtype=ious.dtype)
        return Counts(
            images=len(ranks),
            in_top1=int((ranks == 0).sum()),
            in_top5=int((ranks < 5).sum()),
            located=int(has_truth.sum()),
            right=(ious[has_truth][:, :, None] >= levels).sum(dim=0),
            own_right=int(is_right.sum()),
            top1_right=int((is_right & (ranks == 0)).sum()),
            top5_right=int((is_right & (ranks < 5)).sum()),
            iou=float(ious[has_truth, own].double().sum()),
            area=float(areas[has_truth].double().sum()),
            others={name: int((rows[has_truth] >= RIGHT).sum()) for name, rows in others.items()},
        )


@dataclass(frozen=True, slots=True)
class LocationResult:
    """Shares in [0, 1] of the images that have a true box; None where undefined, because there is none."""

    gt_known: float | None
    """The box is right: IoU 0.5 or more with the best true box."""
    top1_loc: float | None
    """Box and class are right."""
    top5_loc: float | None
    """The box is right, and the class among the best five."""
    max_box_acc: float | None
    """Mean of the next three: MaxBoxAccV2 (Choe et al., 2020); CAM's boxes at the best threshold for each."""
    max_box_acc_30: float | None
    max_box_acc_50: float | None
    max_box_acc_70: float | None
    top1_class: float | None
    """The class is right, of all images."""
    mean_iou: float | None
    mean_area: float | None
    """Of the boxes, as shares of the view: near 1, they say nothing."""
    trivial: dict[str, float | None]
    """GT-Known of boxes that need no network."""
    pseudo_label: float | None
    """GT-Known of the boxes that the localizer learns from in the first stage."""
    images: int
    located: int

    @property
    def score(self) -> float | None:
        """Return GT-Known."""
        return self.gt_known

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = asdict(self)
        trivial: dict[str, Any] = values.pop("trivial")
        return values | trivial

    def as_text(self) -> str:
        """Return a table for people, figures in percent, the trivial boxes beside them."""
        rows = [
            ("GT-Known", self.gt_known),
            ("Top-1 Loc", self.top1_loc),
            ("Top-5 Loc", self.top5_loc),
            ("MaxBoxAcc", self.max_box_acc),
            *((f"  at IoU {level:g}", getattr(self, f"max_box_acc_{100 * level:.0f}")) for level in LEVELS),
            ("class right", self.top1_class),
            ("mean IoU", self.mean_iou),
            ("mean box area", self.mean_area),
            *([("GT-Known of pseudo-labels", self.pseudo_label)] if self.pseudo_label is not None else []),
            *((f"GT-Known of {NAMES[name]}", share) for name, share in self.trivial.items()),
        ]
        lines = [f"{plural(self.images, 'image')}, {self.located} with a true box"]
        return "\n".join([*lines, *(f"{name:<28}{percent(share, 2):>7}" for name, share in rows)])


NAMES = {WHOLE: "the whole image", CENTRE: "the centre box", MEAN: "the mean training box"}


def result_of(parts: Sequence[Counts]) -> LocationResult:
    """Add up the parts."""

    def total(name: str) -> float:
        return float(sum(getattr(part, name) for part in parts))

    located = int(total("located"))

    def share(count: float, of: int = located) -> float | None:
        return count / of if of else None

    right = torch.stack([part.right for part in parts]).sum(dim=0)  # [T, levels]
    at_levels = [share(int(count)) for count in right.amax(dim=0)]
    known = [value for value in at_levels if value is not None]
    names = dict.fromkeys(name for part in parts for name in part.others)  # a rank without images does not know all
    others = {name: share(sum(part.others.get(name, 0) for part in parts)) for name in names}
    own_right = share(sum(part.own_right for part in parts))
    return LocationResult(
        gt_known=own_right,
        top1_loc=share(total("top1_right")),
        top5_loc=share(total("top5_right")),
        max_box_acc=sum(known) / len(known) if known else None,
        max_box_acc_30=at_levels[0],
        max_box_acc_50=at_levels[1],
        max_box_acc_70=at_levels[2],
        top1_class=share(total("in_top1"), int(total("images"))),
        mean_iou=share(total("iou")),
        mean_area=share(total("area")),
        trivial={name: value for name, value in others.items() if name in NAMES},
        pseudo_label=others.get("pseudo_label"),
        images=int(total("images")),
        located=located,
    )
