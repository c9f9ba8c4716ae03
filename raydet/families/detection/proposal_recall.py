"""How many true boxes the region proposals of a detector cover, before anything is said of classes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raydet.data.boxes.index import DatasetIndex
from raydet.families.detection.evaluate import viewed
from raydet.families.detection.method import DetectionMethod
from raydet.group import Group
from raydet.text import percent, plural
from raydet.vision.detector import Detector
from raydet.vision.geometry import clip_boxes
from raydet.vision.mode import evaluating
from raydet.vision.recall import BUDGETS, PRE_NMS, average_recalls, best_ious, recalls
from raydet.vision.rpn import proposals

RECALL_IOU = 0.5


@dataclass(frozen=True, slots=True)
class ProposalRecall:
    """Recall of region proposals, shares in [0, 1]; None where there is no true box."""

    images: int
    boxes: int  # true boxes without crowd regions
    recall_10: float | None  # at IoU 0.5, among the best 10 proposals of each image
    recall_100: float | None
    recall_1000: float | None
    ar_10: float | None  # mean over IoU 0.50:0.05:0.95
    ar_100: float | None
    ar_1000: float | None

    @property
    def score(self) -> float | None:
        """Return the recall at 100."""
        return self.recall_100

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """Return a table for people, figures in percent."""
        rows = [
            ("best", *(f"{budget:,}" for budget in BUDGETS)),
            ("recall", *(percent(each) for each in (self.recall_10, self.recall_100, self.recall_1000))),
            ("AR", *(percent(each) for each in (self.ar_10, self.ar_100, self.ar_1000))),
        ]
        table = ["".join(f"{name:8}" + "".join(f"{cell:>7}" for cell in cells)) for name, *cells in rows]
        heading = f"region proposals of {plural(self.images, 'image')}, {plural(self.boxes, 'true box')}"
        return "\n".join([heading, *table])


def proposal_recall(
    method: DetectionMethod, model: Detector, index: DatasetIndex, group: Group, *, max_images: int | None = None
) -> ProposalRecall | None:
    """Judge a detector's proposals over all ranks; the lead rank gets the figures, the others None.

    Waits for all ranks. Every detector gives up to 1,000 proposals per image here, whatever its configuration keeps.
    """
    rows = index.rows_to_judge(max_images)
    own = group.share_of(rows)
    parts: list[NDArray[np.float32]] = group.all_gather(_best(method, model, index, own))
    if not group.is_lead:
        return None
    best = np.concatenate(parts)
    found = recalls(best, RECALL_IOU) | average_recalls(best)
    return ProposalRecall(images=len(rows), boxes=len(best), **found)


def _best(method: DetectionMethod, model: Detector, index: DatasetIndex, rows: Sequence[int]) -> NDArray[np.float32]:
    """Return the best IoUs `[G, 3]` of the true boxes of some images, in original pixels."""
    found = [np.zeros((0, len(BUDGETS)), np.float32)]
    with closing(viewed(index, rows, method.run.data)) as images, evaluating(model):
        for chunk, views in images:
            for positions, group in model.framed([pixels for pixels, _ in views]).by_frame():
                scores = model.score_anchors(model.features(group))
                every = proposals(
                    scores, group.sizes, pre_nms=PRE_NMS, post_nms=max(BUDGETS), nms_iou=model.config.rpn_nms
                )
                for place, proposed in zip(positions, every, strict=True):
                    row, (_, view) = chunk[place], views[place]
                    boxes = clip_boxes(view.to_original(proposed.float().cpu()), *index.size_at(row))
                    truth = index.truth_at(row)
                    true = torch.from_numpy(truth.boxes[~truth.crowd].astype(np.float32))
                    found.append(best_ious(boxes, true).numpy())
    return np.concatenate(found)
