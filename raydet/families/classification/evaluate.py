"""Running a classifier over a set of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raydet.config.class_data import ImageViewsConfig
from raydet.data.classes.index import ImageIndex
from raydet.families.classification.accuracy import ClassifierResult, Counts, count, result_of
from raydet.families.classification.method import ClassificationMethod
from raydet.families.classification.views import plain_view
from raydet.group import Group
from raydet.vision.classifier import Classified, Classifier
from raydet.vision.mode import evaluating

IMAGES_PER_FORWARD = 128


def predict(
    model: Classifier, index: ImageIndex, rows: Sequence[int], views: ImageViewsConfig, device: torch.device
) -> Classified:
    """Return logits and features of the images at `rows`, unaugmented, in evaluation mode, on the CPU."""
    found = []
    for start in range(0, len(rows), IMAGES_PER_FORWARD):
        pixels = [plain_view(index.pixels_at(row), views) for row in rows[start : start + IMAGES_PER_FORWARD]]
        with evaluating(model):
            found.append(model(torch.stack(pixels).to(device)))
    if not found:
        return Classified(torch.zeros(0, model.num_classes), torch.zeros(0, model.network.width))
    return Classified(torch.cat([each.logits for each in found]).cpu(), torch.cat([e.features for e in found]).cpu())


def evaluate_sharded(
    method: ClassificationMethod, model: Classifier, index: ImageIndex, group: Group, *, max_images: int | None
) -> ClassifierResult | None:
    """Evaluate over all ranks; the lead rank gets the figures, the others None. Waits for all ranks."""
    rows = group.share_of(index.rows_to_judge(max_images))
    said = predict(model, index, rows, method.run.data.views, group.device)
    parts: list[Counts] = group.all_gather(count(said.logits, index.labels()[rows]))
    return result_of(parts, index.class_names) if group.is_lead else None
