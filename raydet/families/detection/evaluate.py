"""Running a detector over a data set, this rank's share of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raydet.data.boxes.index import DatasetIndex
from raydet.families.detection.coco import EvalResult, coco_metrics
from raydet.families.detection.judged_boxes import Detections
from raydet.families.detection.method import DetectionMethod
from raydet.families.detection.views import eval_view
from raydet.group import Group
from raydet.vision.detector import Detector
from raydet.vision.geometry import clip_boxes
from raydet.vision.images import collate
from raydet.vision.masks import pasted
from raydet.vision.mode import evaluating

IMAGES_PER_FORWARD = 4


def predict(
    method: DetectionMethod, model: Detector, index: DatasetIndex, positions: Sequence[int], device: torch.device
) -> list[Detections]:
    """Return the detections of the images at `positions`, boxes in original pixels."""
    found = []
    for start in range(0, len(positions), IMAGES_PER_FORWARD):
        chunk = positions[start : start + IMAGES_PER_FORWARD]
        views = [eval_view(index.pixels_at(i), method.run.data.views) for i in chunk]
        with evaluating(model):
            said = method.detect(model, collate([pixels for pixels, _ in views], device))
        for i, (_, view), each in zip(chunk, views, said, strict=True):
            height, width = index.size_at(i)
            boxes = clip_boxes(view.to_original(each.boxes.float().cpu()), height, width)
            masks = None if each.masks is None else pasted(each.masks, boxes, height, width)
            found.append(Detections(index.id_at(i), boxes, each.classes.cpu(), each.scores.float().cpu(), masks))
    return found


def evaluate_sharded(
    method: DetectionMethod, model: Detector, index: DatasetIndex, group: Group, *, max_images: int | None = None
) -> EvalResult | None:
    """Evaluate over all ranks; the lead rank gets the figures, the others None. Waits for all ranks."""
    rows = index.rows_to_judge(max_images)
    parts = group.all_gather(predict(method, model, index, group.share_of(rows), group.device))
    if not group.is_lead:
        return None
    found = [detections for part in parts for detections in part]
    split, engine = method.run.data.split, method.run.eval.engine
    return coco_metrics(index, found, engine=engine, positions=rows, minority=split.minority, novel=split.novel)
