"""R2-D2 as published and in small, and batches of it, for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from raydet.families.classification.batch import ClassBatch, StepRows
from raydet.families.classification.label_table import LabelTable
from raydet.families.classification.methods.r2d2 import R2D2
from raydet.registry import build_method
from raydet.settings import resolve
from tests.helpers import tiny_classes


def cifar(**changes: object) -> R2D2:
    """CIFAR-10 as published: 300 + 600 + 50 epochs, of 100, 119 and 97 steps."""
    tree = {
        "run": {"dir": "unused"},
        "data": {"labeled": "x", "labeled_per_class": 400},
        "method": {"name": "r2d2"},
        "optim": {"lr": 0.12, "warmup_steps": 0, "labeled_batch": 128, "unlabeled_batch": 384}
        | {"steps": 300 * 100 + 600 * 119 + 50 * 97},
    }
    method = build_method(resolve(tree, {key.replace("__", "."): value for key, value in changes.items()}))
    assert isinstance(method, R2D2)
    return method


def tiny(**changes: Any) -> R2D2:
    """Stages end at 4, 16 and 20; see `TINY_CLASSES`."""
    method = build_method(tiny_classes(Path("unused"), **changes))
    assert isinstance(method, R2D2)
    return method


def batch_of(
    labeled: int, unlabeled: int, *, step: int = 5, row: Tensor | None = None, student: Tensor | None = None
) -> tuple[ClassBatch, Tensor]:
    """Return a batch of one rank, and the student's logits; unlabelled images are rows 0, 1, ... of the table."""
    rng = torch.Generator().manual_seed(labeled + 100 * unlabeled)
    pseudo, logits = (3 * torch.randn(n, 3, generator=rng) for n in (unlabeled, labeled + unlabeled))
    if row is not None and student is not None:
        pseudo[:], logits[:] = row.float(), student.float()
    classes = torch.arange(labeled) % 3
    ids = [f"image-{n}" for n in range(labeled + unlabeled)]
    numbers = torch.arange(unlabeled)
    batch = ClassBatch(step, ids, torch.zeros(labeled + unlabeled, 3, 8, 8, dtype=torch.uint8), classes, pseudo)
    return replace(batch, rows=StepRows(numbers, numbers, 4)), logits


def share_of(batch: ClassBatch, logits: Tensor, rank: int, world: int) -> tuple[ClassBatch, Tensor]:
    """Return a rank's contiguous part of a batch."""
    labeled, unlabeled = (
        slice(rank * n // world, (rank + 1) * n // world) for n in (batch.num_labeled, batch.num_unlabeled)
    )
    assert batch.rows is not None
    own = batch.rows.own[unlabeled]
    learned = None
    if batch.learned_logits is not None:
        learned = batch.learned_logits[labeled]
        own = torch.cat([batch.rows.own[: batch.num_labeled][labeled], batch.rows.own[batch.num_labeled :][unlabeled]])
    picked = torch.cat(
        [torch.arange(batch.num_labeled)[labeled], batch.num_labeled + torch.arange(batch.num_unlabeled)[unlabeled]]
    )
    part = ClassBatch(
        batch.step,
        [batch.image_ids[n] for n in picked],
        batch.pixels[picked],
        batch.classes[labeled],
        batch.pseudo_logits[unlabeled],
        learned,
        replace(batch.rows, own=own),
    )
    return part, logits[picked]


def group_with(total: Callable[[Tensor], Tensor]) -> Any:
    """Return what an update asks of its group, with a sum over ranks of one's own."""
    return SimpleNamespace(device=torch.device("cpu"), sum=total)


def learned_by(method: R2D2, parts: list[tuple[ClassBatch, Tensor]], table: Any) -> list[LabelTable]:
    """Run `update` as the ranks of one step would: the sum over ranks is known once each has handed in its own."""
    handed_in: list[Tensor] = []

    def hand_in(buffer: Tensor) -> Tensor:
        handed_in.append(buffer.clone())
        return buffer

    for batch, logits in parts:
        method.update(table(), batch, {"logits": logits}, {}, group_with(hand_in))
    tables = []
    for batch, logits in parts:
        tables.append(table())
        everybodys = group_with(lambda buffer: torch.stack(handed_in).sum(0))
        method.update(tables[-1], batch, {"logits": logits}, {}, everybodys)
    return tables
