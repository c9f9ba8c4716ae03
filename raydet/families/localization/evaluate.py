"""Running the networks over a set of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raydet.config.located_data import LocatedViewsConfig
from raydet.data.located.index import LocatedIndex
from raydet.families.localization.accuracy import (
    MEAN,
    TRIVIAL,
    Counts,
    LocationResult,
    best_ious,
    class_ranks,
    result_of,
)
from raydet.families.localization.data import read_mean_box
from raydet.families.localization.method import LocalizationMethod
from raydet.families.localization.model import LocalizationModel, shares
from raydet.families.localization.views import eval_view
from raydet.group import Group
from raydet.vision.geometry import View, box_areas
from raydet.vision.mode import evaluating

IMAGES_PER_FORWARD = 32


@dataclass(frozen=True, slots=True, eq=False)
class TestViews:
    """Some images as they are measured."""

    pixels: Tensor  # [B, 3, S, S] uint8
    views: list[View]
    sizes: list[tuple[int, int]]  # (height, width) of the originals
    classes: Tensor  # [B] int64
    truths: list[Tensor]  # [n, 4] float32: true boxes in shares of the view, clipped; those that left it have no inside


def views_of(index: LocatedIndex, rows: Sequence[int], config: LocatedViewsConfig) -> TestViews:
    """Return the test views of the images at `rows`, and their true boxes where the index has them."""
    found = TestViews(
        torch.empty(0), [], [], torch.tensor([index.label_at(row) for row in rows], dtype=torch.int64), []
    )
    pixels = []
    for row in rows:
        original = index.pixels_at(row)
        viewed, view = eval_view(original, config)
        pixels.append(viewed)
        found.views.append(view)
        found.sizes.append((int(original.shape[1]), int(original.shape[2])))
        found.truths.append(in_view(torch.from_numpy(index.boxes_at(row)), view))
    return TestViews(torch.stack(pixels), found.views, found.sizes, found.classes, found.truths)


def in_view(boxes: Tensor, view: View) -> Tensor:
    """Return boxes `[n, 4]` of the original as shares of a square view, clipped, float32."""
    return (view.to_view(boxes) / view.width).clamp(0, 1).float()


def count_rows(
    method: LocalizationMethod,
    model: LocalizationModel,
    index: LocatedIndex,
    rows: Sequence[int],
    device: torch.device,
    *,
    with_pseudo_boxes: bool,
) -> Counts:
    """Judge the images at `rows`."""
    mean, views = read_mean_box(index), method.run.data.views
    ious, areas, ranks, located = [], [], [], []
    others: dict[str, list[Tensor]] = {}
    for start in range(0, len(rows), IMAGES_PER_FORWARD):
        seen = views_of(index, rows[start : start + IMAGES_PER_FORWARD], views)
        pixels, classes = shares(seen.pixels, device), seen.classes.to(device)
        with evaluating(model):
            logits = model.classifier(pixels).logits.cpu()
            boxes = method.locate(model, pixels, classes).cpu()
            pseudo = method.pseudo_boxes_of(model, pixels, classes) if with_pseudo_boxes else None
        given = {name: torch.tensor([box]).expand(len(boxes), 4) for name, box in TRIVIAL.items()}
        if mean is not None:  # of whole images: carried into each view
            originals = torch.tensor(mean) * torch.tensor([[w, h, w, h] for h, w in seen.sizes])
            given[MEAN] = torch.cat([in_view(b[None], v) for b, v in zip(originals, seen.views, strict=True)])
        given |= {} if pseudo is None else {"pseudo_label": pseudo.cpu()}
        ious.append(best_ious(boxes, seen.truths))
        areas.append(box_areas(boxes[:, method.own_threshold]))
        ranks.append(class_ranks(logits, seen.classes))
        located.append(torch.tensor([len(true) > 0 for true in seen.truths], dtype=torch.bool))
        for name, each in given.items():
            others.setdefault(name, []).append(best_ious(each[:, None], seen.truths)[:, 0])
    if not ious:
        nothing = torch.zeros(0)
        names = [*TRIVIAL, *([MEAN] if mean is not None else [])]
        return Counts.of(
            torch.zeros(0, max(1, len(method.thresholds))),
            nothing,
            nothing,
            nothing.bool(),
            0,
            dict.fromkeys(names, nothing),
        )
    joined = {name: torch.cat(parts) for name, parts in others.items()}
    return Counts.of(
        torch.cat(ious), torch.cat(areas), torch.cat(ranks), torch.cat(located), method.own_threshold, joined
    )


def evaluate_sharded(
    method: LocalizationMethod, model: LocalizationModel, index: LocatedIndex, group: Group, *, max_images: int | None
) -> LocationResult | None:
    """Evaluate over all ranks; the lead rank gets the figures, the others None. Waits for all ranks."""
    rows = group.share_of(index.rows_to_judge(max_images))
    own = count_rows(method, model, index, rows, group.device, with_pseudo_boxes=method.run.eval.pseudo_boxes)
    parts: list[Counts] = group.all_gather(own)
    return result_of(parts) if group.is_lead else None
