"""What is judged: detections and true boxes, checked, in the columns that COCO's engines and TIDE read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from raydet.data.boxes.index import DatasetIndex
from raydet.families.detection.precision import Dataset
from raydet.families.detection.tide_kinds import SaidBoxes, TrueBoxes


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What a model found in one image; an image without detections has zero rows."""

    image_id: str
    boxes: Tensor  # [N, 4] float32 xyxy, pixels of the ORIGINAL image
    classes: Tensor  # [N] int64, 0-based, no background
    scores: Tensor  # [N] float32, finite
    masks: Sequence[bytes] | None = None  # [N] COCO's compressed RLE of the original image; None: a model of boxes


def rows_of(index: DatasetIndex, detections: Sequence[Detections], positions: Sequence[int]) -> np.ndarray:
    """Return `[N, 7]` float64 (image, x, y, width, height, score, class), images and classes counted from 1.

    In order of position, so that equal scores rank the same however the work was shared. Raises ValueError for what
    cannot be judged: see `coco_metrics`.
    """
    wanted = {index.id_at(i): i for i in positions}
    found: dict[int, np.ndarray] = {}
    for each in detections:
        position = wanted.get(each.image_id)
        if position is None:
            raise ValueError(f"detections of image {each.image_id!r}: it is not among the images to evaluate")
        if position in found:
            raise ValueError(f"detections of image {each.image_id!r} are given twice")
        found[position] = _checked(each, position, len(index.class_names))
    return np.concatenate([np.zeros((0, 7)), *(found[i] for i in sorted(found))])


def _checked(each: Detections, position: int, num_classes: int) -> np.ndarray:
    boxes, classes, scores = (np.asarray(x, dtype=np.float64) for x in (each.boxes, each.classes, each.scores))
    what = f"detections of image {each.image_id!r}"
    if not (boxes.shape == (len(scores), 4) and classes.shape == scores.shape == (len(scores),)):
        raise ValueError(f"{what}: shapes {boxes.shape}, {classes.shape}, {scores.shape} are not [N, 4], [N], [N]")
    for name, values in (("scores", scores), ("boxes", boxes)):
        if not np.isfinite(values).all():
            raise ValueError(f"{what}: {name} contain NaN or infinity; the model has probably diverged")
    if ((classes < 0) | (classes >= num_classes)).any():
        raise ValueError(f"{what}: a class lies outside 0..{num_classes - 1}")
    rows = np.empty((len(scores), 7))
    rows[:, 0], rows[:, 5], rows[:, 6] = position + 1.0, scores, classes + 1
    rows[:, 1:3], rows[:, 3:5] = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    return rows


def truth_of(index: DatasetIndex, positions: Sequence[int]) -> tuple[Dataset, TrueBoxes]:
    """Return what is true of the images at `positions`: as COCO's JSON, all counted from 1, and as columns."""
    found = [index.truth_at(i) for i in positions]
    images = np.repeat(np.array(positions, dtype=np.int64) + 1, [len(each.classes) for each in found])
    boxes = np.concatenate([np.zeros((0, 4)), *(each.boxes for each in found)])
    classes = np.concatenate([np.zeros(0, dtype=np.int64), *(each.classes for each in found)])
    crowd = np.concatenate([np.zeros(0, dtype=np.bool_), *(each.crowd for each in found)])
    areas = np.concatenate([np.zeros(0), *(each.areas for each in found)])
    places = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    columns = (images, classes + 1, places, areas, crowd.astype(np.int64))
    annotations = [
        {"id": number, "image_id": image, "category_id": label, "bbox": place, "area": area, "iscrowd": is_crowd}
        for number, (image, label, place, area, is_crowd) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]  # id 0 would mean "no match"
    sizes = [(i + 1, *index.size_at(i)) for i in positions]
    truth = {
        "images": [{"id": image, "height": height, "width": width} for image, height, width in sizes],
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(index.class_names)],
    }
    return truth, TrueBoxes(images, _corners(places), classes, crowd)


def boxes_of_rows(rows: np.ndarray) -> SaidBoxes:
    """Return the columns of `rows_of`, corners for sides."""
    images, classes = rows[:, 0].astype(np.int64), rows[:, 6].astype(np.int64) - 1
    return SaidBoxes(images, _corners(rows[:, 1:5]), classes, rows[:, 5])


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
