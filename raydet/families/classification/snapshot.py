"""What a classifier's labels and predictions are at an evaluation, for the report to look at later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raydet.config.class_data import ImageViewsConfig
from raydet.data.classes.index import ImageIndex
from raydet.families.classification.data import PreparedImages
from raydet.families.classification.evaluate import predict
from raydet.families.classification.label_table import NEVER, LabelTable
from raydet.labels.snapshots import Sample, write_labels, write_sample
from raydet.vision.classifier import Classifier

SAMPLE = 512  # images of either kind, evenly spaced: enough for a scatter, little beside an evaluation


def write_snapshot(
    step: int,
    model: Classifier,
    table: LabelTable | None,
    data: PreparedImages,
    views: ImageViewsConfig,
    device: torch.device,
    folder: Path,
) -> None:
    """Write the learned labels of all images, where they are learned, and a sample of what the network says."""
    unlabeled = [] if data.unlabeled is None else _spaced(len(data.unlabeled))
    pseudo = None
    if table is not None:
        own = table.versions[: table.num_unlabeled] != NEVER
        if bool(own.any()):
            _write_table(folder, step, table.logits[: table.num_unlabeled][own], own.nonzero()[:, 0])
        pseudo = table.read(torch.tensor(unlabeled))
    samples = [_sample(model, data.labeled, _spaced(len(data.labeled)), None, views, device)]
    index = data.unlabeled if data.unlabeled is not None else data.labeled
    samples.append(_sample(model, index, unlabeled, pseudo, views, device))
    write_sample(folder, step, *samples)


def _write_table(folder: Path, step: int, logits: Tensor, rows: Tensor) -> None:
    log_p = logits.log_softmax(dim=-1)
    scores, classes = log_p.max(dim=-1)
    write_labels(folder, step, rows, classes, scores.exp(), -(log_p.exp() * log_p).sum(dim=-1))


def _sample(
    model: Classifier,
    index: ImageIndex,
    rows: Sequence[int],
    pseudo: Tensor | None,
    views: ImageViewsConfig,
    device: torch.device,
) -> Sample:
    said = predict(model, index, rows, views, device)
    features = said.features if said.features.shape[1] == 2 else None  # others cannot be drawn
    return Sample.of(np.array(rows, dtype=np.int64), said.logits, pseudo_logits=pseudo, features=features)


def _spaced(number: int) -> list[int]:
    """Return up to `SAMPLE` rows of so many, evenly spaced."""
    return sorted({int(row) for row in np.linspace(0, number - 1, min(SAMPLE, number)).round()})
