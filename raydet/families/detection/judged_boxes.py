"""What is judged: detections and true boxes, checked, in the columns that AP and TIDE read, and as COCO's
engines want them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raydet.data.boxes.index import DatasetIndex
from raydet.families.detection.box_pairs import Floats, Ints, SaidBoxes, TrueBoxes
from raydet.families.detection.precision import Dataset

_NO_CLASSES = torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What a model found in one image; an image without detections has zero rows."""

    image_id: str
    boxes: Tensor  # [N, 4] float32 xyxy, pixels of the ORIGINAL image
    classes: Tensor  # [N] int64, 0-based, no background
    scores: Tensor  # [N] float32, finite
    masks: Sequence[bytes] | None = None  # [N] COCO's compressed RLE of the original image; None: a model of boxes


def said_of(index: DatasetIndex, detections: Sequence[Detections], positions: Sequence[int]) -> SaidBoxes:
    """Return detections in columns, images counted from 1.

    In order of position, so that equal scores rank the same however the work was shared. Raises ValueError for what
    cannot be judged: see `coco_metrics`.
    """
    wanted = {index.id_at(i): i for i in positions}
    found: dict[int, Detections] = {}
    for each in detections:
        position = wanted.get(each.image_id)
        if position is None:
            raise ValueError(f"detections of image {each.image_id!r}: it is not among the images to evaluate")
        if position in found:
            raise ValueError(f"detections of image {each.image_id!r} are given twice")
        shapes = each.boxes.shape, each.classes.shape, each.scores.shape
        if shapes != ((*shapes[2][:1], 4), shapes[2][:1], shapes[2]):
            said = ", ".join(str(tuple(shape)) for shape in shapes)
            raise ValueError(f"detections of image {each.image_id!r}: shapes {said} are not [N, 4], [N], [N]")
        found[position] = each
    order = sorted(found)
    ordered = [found[i] for i in order]
    boxes, classes, scores = (
        torch.cat([first, *(getattr(each, name) for each in ordered)]).numpy()
        for name, first in (("boxes", torch.zeros(0, 4)), ("classes", _NO_CLASSES), ("scores", torch.zeros(0)))
    )
    of = np.repeat(np.arange(len(ordered)), [each.scores.shape[0] for each in ordered])
    _check([each.image_id for each in ordered], of, boxes, classes, scores, len(index.class_names))
    images = np.array(order, dtype=np.int64)[of] + 1
    places, sides = _corners_and_sides(boxes.astype(np.float64))
    return SaidBoxes(images, places, classes, scores.astype(np.float64), sides)


def _check(
    ids: list[str], places: Ints, boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray, num_classes: int
) -> None:
    """Raise ValueError for the first detection that cannot be judged; `places`: of their images among `ids`."""
    broken = "contain NaN or infinity; the model has probably diverged"
    for is_bad, what in (
        (~np.isfinite(scores), f"scores {broken}"),
        (~np.isfinite(boxes), f"boxes {broken}"),
        ((classes < 0) | (classes >= num_classes), f"a class lies outside 0..{num_classes - 1}"),
    ):
        if is_bad.any():
            place = places[np.argwhere(is_bad)[0, 0]]
            raise ValueError(f"detections of image {ids[place]!r}: {what}")


def truth_of(index: DatasetIndex, positions: Sequence[int]) -> TrueBoxes:
    """Return what is true of the images at `positions` in columns, images counted from 1."""
    counts, found = index.truth_of(positions)
    images = np.repeat(np.array(positions, dtype=np.int64) + 1, counts)
    boxes, sides = _corners_and_sides(found.boxes)
    return TrueBoxes(images, boxes, found.classes, found.crowd, sides, found.areas)


def _corners_and_sides(boxes: Floats) -> tuple[Floats, Floats]:
    """Return boxes with the corners that COCO's layout, a corner and two sides, leads to, and those sides; changes the
    boxes."""
    sides = boxes[:, 2:] - boxes[:, :2]
    np.add(boxes[:, :2], sides, out=boxes[:, 2:])
    return boxes, sides


def dataset_of(index: DatasetIndex, positions: Sequence[int], truth: TrueBoxes) -> Dataset:
    """Return what is true of the images at `positions` as COCO's JSON, all counted from 1."""
    places = np.hstack([truth.boxes[:, :2], truth.sides])
    columns = (truth.images, truth.classes + 1, places, truth.areas, truth.crowd.astype(np.int64))
    annotations = [
        {"id": number, "image_id": image, "category_id": label, "bbox": place, "area": area, "iscrowd": is_crowd}
        for number, (image, label, place, area, is_crowd) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]  # id 0 would mean "no match"
    sizes = [(i + 1, *index.size_at(i)) for i in positions]
    return {
        "images": [{"id": image, "height": height, "width": width} for image, height, width in sizes],
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(index.class_names)],
    }


def rows_of(said: SaidBoxes) -> np.ndarray:
    """Return `[N, 7]` float64 (image, x, y, width, height, score, class), images and classes counted from 1."""
    columns = (said.images, said.boxes[:, :2], said.sides, said.scores, said.classes + 1)
    return np.column_stack(columns).astype(np.float64)
