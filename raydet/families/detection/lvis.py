"""LVIS's rules of average precision (Gupta et al., CVPR 2019): for data sets in which not every class was looked for in
every image. Detections of a class count in the images in which it was looked for; where it is there and not all of its
objects have boxes, a detection that finds no box is neither right nor wrong; 300 detections per image count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raydet.data.boxes.federated import Federated
from raydet.families.detection.average_precision import numpy_precision
from raydet.families.detection.box_pairs import Ints, SaidBoxes, TrueBoxes, judgeable, places_in_runs
from raydet.families.detection.precision import Dataset, pycocotools_precision

MOST = 300  # detections per image, best score first


def lvis_precision(
    truth: Dataset, rows: np.ndarray, federated: Federated, engine: str, *, masks: Sequence[bytes] | None = None
) -> np.ndarray:
    """Return the precision `[T, R, K, A]` of detections `[N, 7]`; see `raydet.families.detection.coco`.

    `federated` is that of the images of `truth`, in their order. `masks`: of pycocotools' engine alone.
    """
    return _hotcoco(truth, rows, federated) if engine == "hotcoco" else _pycocotools(truth, rows, federated, masks)


def lvis_numpy(truth: TrueBoxes, said: SaidBoxes, images: Ints, federated: Federated, num_classes: int) -> np.ndarray:
    """Return the same by `numpy_precision`; `images`: of `federated`, ascending, as `truth` and `said` count them."""

    def cells(of: Ints, classes: Ints) -> Ints:
        return np.searchsorted(images, of) * num_classes + classes

    def listed(each: Sequence[Ints]) -> Ints:
        return cells(np.repeat(images, [len(one) for one in each]), np.concatenate([np.zeros(0, np.int64), *each]))

    own = cells(said.images, said.classes)
    by_image = np.lexsort((-said.scores, said.images))
    counts = np.empty(len(own), dtype=np.bool_)
    counts[by_image] = places_in_runs(said.images[by_image]) < MOST
    counts &= np.isin(own, np.concatenate([cells(truth.images, truth.classes), listed(federated.negative)]))
    own, said = own[counts], said.where(counts)
    unjudged = np.isin(own, listed(federated.partial))
    return numpy_precision(truth, said, judgeable(truth, said, MOST), num_classes, unjudged)


def _pycocotools(truth: Dataset, rows: np.ndarray, federated: Federated, masks: Sequence[bytes] | None) -> np.ndarray:
    ids = [int(image["id"]) for image in truth["images"]]
    absent = {i: set((each + 1).tolist()) for i, each in zip(ids, federated.negative, strict=True)}
    partial = {i: set((each + 1).tolist()) for i, each in zip(ids, federated.partial, strict=True)}
    there: dict[int, set[int]] = {i: set() for i in ids}
    for box in truth["annotations"]:
        there[box["image_id"]].add(box["category_id"])
    best = _best(rows)
    counted = [
        place for place in best if int(rows[place, 6]) in there[int(rows[place, 0])] | absent[int(rows[place, 0])]
    ]
    return pycocotools_precision(
        truth,
        rows[counted],
        most=MOST,
        is_partial=lambda image, kind: kind in partial[image],
        masks=None if masks is None else [masks[place] for place in counted],
    )


def _best(rows: np.ndarray) -> np.ndarray:
    """Return which rows are among the best of their image, in their order."""
    order = np.argsort(-rows[:, 5], kind="stable")
    kept = [order[rows[order, 0] == image][:MOST] for image in np.unique(rows[:, 0])]
    return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *kept]))


def _hotcoco(truth: Dataset, rows: np.ndarray, federated: Federated) -> np.ndarray:
    from hotcoco import COCO, COCOeval

    images = [
        {**image, "neg_category_ids": (absent + 1).tolist(), "not_exhaustive_category_ids": (partial + 1).tolist()}
        for image, absent, partial in zip(truth["images"], federated.negative, federated.partial, strict=True)
    ]
    kinds = [
        {**kind, "frequency": of or "f"} for kind, of in zip(truth["categories"], federated.frequency, strict=True)
    ]
    side = COCO({**truth, "images": images, "categories": kinds})
    run = COCOeval(side, side.load_res(rows), "bbox", lvis_style=True)
    run.evaluate()
    run.accumulate()
    arrays: Any = run.eval
    return np.asarray(arrays["precision"])[..., -1]
