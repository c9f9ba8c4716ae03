"""Running a detector over a data set, this rank's share of it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import closing

from torch import Tensor

from raydet.config.box_data import DataConfig
from raydet.data.boxes.index import DatasetIndex
from raydet.data.prefetch import Prefetcher
from raydet.families.detection.coco import EvalResult, coco_metrics
from raydet.families.detection.judged_boxes import Detections
from raydet.families.detection.method import DetectionMethod
from raydet.families.detection.views import eval_view
from raydet.group import Group
from raydet.vision.detector import Detector
from raydet.vision.geometry import View, clip_boxes
from raydet.vision.masks import pasted
from raydet.vision.mode import evaluating

IMAGES_PER_FORWARD = 4

_Viewed = tuple[Tensor, View]


def viewed(
    index: DatasetIndex, rows: Sequence[int], data: DataConfig
) -> Generator[tuple[Sequence[int], list[_Viewed]], None, None]:
    """Yield images as they are evaluated, some at a time and with their rows, in order.

    The next ones are decoded meanwhile, by `data.loader_threads`. Raises what goes wrong with an image when its turn
    has come. Close it where it is not read to its end: that ends the threads.
    """
    chunks = [rows[start : start + IMAGES_PER_FORWARD] for start in range(0, len(rows), IMAGES_PER_FORWARD)]

    def submit(row: int) -> Future[_Viewed]:
        return ahead.submit(lambda: eval_view(index.pixels_at(row), data.views), lambda: index.file_at(row))

    def start(number: int) -> tuple[list[Future[_Viewed]]]:
        return ([submit(row) for row in chunks[number]],)

    ahead = Prefetcher(start, threads=data.loader_threads, ahead=data.prefetch_steps, end=len(chunks))
    try:
        for number, chunk in enumerate(chunks):
            (images,) = ahead.take(number)
            yield chunk, [image.result() for image in images]
    finally:
        ahead.close()


def predict(
    method: DetectionMethod, model: Detector, index: DatasetIndex, positions: Sequence[int]
) -> list[Detections]:
    """Return the detections of the images at `positions`, boxes in original pixels."""
    found = []
    with closing(viewed(index, positions, method.run.data)) as images:
        for chunk, views in images:
            with evaluating(model):
                said = method.detect(model, model.framed([pixels for pixels, _ in views]))
            for i, (_, view), each in zip(chunk, views, said, strict=True):
                height, width = index.size_at(i)
                boxes = clip_boxes(view.to_original(each.boxes.float().cpu()), height, width)
                masks = None if each.masks is None else pasted(each.masks, boxes, height, width)
                found.append(Detections(index.id_at(i), boxes, each.classes.cpu(), each.scores.float().cpu(), masks))
    return found


def evaluate_sharded(
    method: DetectionMethod, model: Detector, index: DatasetIndex, group: Group, *, max_images: int | None
) -> EvalResult | None:
    """Evaluate over all ranks; the lead rank gets the figures, the others None. Waits for all ranks."""
    rows = index.rows_to_judge(max_images)
    parts = group.all_gather(predict(method, model, index, group.share_of(rows)))
    if not group.is_lead:
        return None
    found = [detections for part in parts for detections in part]
    split, engine = method.run.data.split, method.run.eval.engine
    return coco_metrics(index, found, engine=engine, positions=rows, minority=split.minority, novel=split.novel)
