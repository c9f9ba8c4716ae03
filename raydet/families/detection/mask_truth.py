"""True masks as COCO's evaluation of masks wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raydet.data.boxes.index import DatasetIndex


def with_true_masks(
    index: DatasetIndex, positions: Sequence[int], annotations: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return annotations, those of the images at `positions` one behind the other, each with its mask.

    An object whose mask nobody knows is, like a crowd, neither to be found nor a mistake to find: within its box.
    """
    sizes = {i + 1: index.size_at(i) for i in positions}
    masks = [mask for i in positions for mask in index.masks_at(i)]
    return [_with_mask(one, mask, *sizes[one["image_id"]]) for one, mask in zip(annotations, masks, strict=True)]


def _with_mask(one: dict[str, Any], mask: bytes, height: int, width: int) -> dict[str, Any]:
    from pycocotools import mask as coco

    if mask:
        return {**one, "segmentation": {"size": [height, width], "counts": mask}}
    (rle,) = coco.frPyObjects(np.array([one["bbox"]], dtype=np.float64), height, width)
    return {**one, "segmentation": rle, "iscrowd": 1}
