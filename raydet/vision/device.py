"""To a GPU and back without making the program wait more often than it has to.

A copy from ordinary memory holds the program up until the device has done all that was asked of it before; a copy from
pinned memory is one more thing that it is asked to do. What has to be known here is fetched in one copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raydet.records import Candidates


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on `device`; does not wait for what that has to do."""
    place = torch.device(device)
    if place.type != "cuda" or values.is_cuda:
        return values.to(place)
    return values.pin_memory().to(place, non_blocking=True)


def all_to_device(parts: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """Return tensors that differ in their first length only on `device`, sent as one."""
    if torch.device(device).type != "cuda" or not parts:
        return [part.to(device) for part in parts]
    return list(torch.split(to_device(torch.cat(list(parts)), device), [len(part) for part in parts]))


def on_host(found: Sequence[Candidates]) -> list[Candidates]:
    """Return boxes, classes, scores and quality of every image as float32 and int64 in this machine's memory."""
    columns = [(each.boxes.float(), each.scores.float(), each.quality.float()) for each in found]
    if not any(boxes.is_cuda for boxes, _, _ in columns):
        return [
            Candidates(boxes, each.classes, scores, quality, each.complete_above)
            for (boxes, scores, quality), each in zip(columns, found, strict=True)
        ]
    numbers = torch.cat(
        [torch.cat([boxes, scores[:, None], quality[:, None]], dim=1) for boxes, scores, quality in columns]
    )
    classes = torch.cat([each.classes for each in found])
    rows = torch.cat([numbers, classes[:, None].float()], dim=1).cpu()  # whole numbers below 2^24 stay what they are
    parts = torch.split(rows, [len(each) for each in found])
    return [
        Candidates(part[:, :4], part[:, 6].long(), part[:, 4], part[:, 5], each.complete_above)
        for part, each in zip(parts, found, strict=True)
    ]
