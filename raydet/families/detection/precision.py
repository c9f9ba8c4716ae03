"""The reference engine of average precision, pycocotools: precision arrays from a truth and detections."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Dataset = dict[str, list[dict[str, Any]]]  # the COCO JSON layout
MOST_DETECTIONS = 2  # index of COCO's third limit of detections per image and class: 1, 10, 100


def pycocotools_precision(
    truth: Dataset,
    rows: np.ndarray,
    *,
    most: int = 100,
    is_partial: Callable[[int, int], bool] | None = None,
    masks: Sequence[bytes] | None = None,
) -> np.ndarray:
    """Return the precision `[T, R, K, A]` of detections `[N, 7]`, at most `most` per image and class.

    `masks` `[N]`, compressed RLE: overlap is that of masks, and `truth` has them too. `is_partial(image id, category
    id)`: there an unmatched detection is neither right nor wrong.
    """
    from pycocotools import mask as coco
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found = [
        {
            "id": number + 1,
            "image_id": int(row[0]),
            "category_id": int(row[6]),
            "bbox": row[1:5].tolist(),
            "area": float(row[3] * row[4]),
            "iscrowd": 0,
            "score": float(row[5]),
        }
        for number, row in enumerate(rows)
    ]
    if masks is not None:
        sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
        for one, mask in zip(found, masks, strict=True):
            rle = {"size": sizes[one["image_id"]], "counts": mask}
            one |= {"segmentation": rle, "area": float(coco.area(rle))}
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress with print
        sides = []
        # Not loadRes: it fails where there are no detections.
        for dataset in (truth, {**truth, "annotations": found}):
            side = COCO()
            side.dataset = dataset
            side.createIndex()
            sides.append(side)
        run = COCOeval(*sides, iouType="bbox" if masks is None else "segm")
        run.params.maxDets = [1, 10, most]
        run.evaluate()
        for each in run.evalImgs:
            if is_partial is not None and each is not None and is_partial(each["image_id"], each["category_id"]):
                each["dtIgnore"] = each["dtIgnore"].astype(bool) | (each["dtMatches"] == 0)
        run.accumulate()
    return np.asarray(run.eval["precision"])[..., MOST_DETECTIONS]
